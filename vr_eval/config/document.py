"""A YAML document whose every value knows its file and line, and the ``--set`` overrides on top of it.

Only plain YAML is taken: no tags, anchors or aliases. They have no use in a grid, and a few lines of aliases can stand
for billions of values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from vr_eval.catalog.frozen import FrozenDict
from vr_eval.errors import MISSING, InputError, Problem

MAX_BYTES = 700_000
MAX_DEPTH = 12
MAX_ENTRIES = 2_000
"""Entries of one list or mapping: more is a typing mistake, not a study."""
MAX_VALUES = 30_000
"""Values of one file; 2,000 rows of seven keys have that many."""
MAX_PROBLEMS = 50
"""Problems that are told; the others are counted."""
NO_PATH = (OSError, RuntimeError, ValueError)
"""What a name raises that can be no path: too long, the home folder of nobody, a NUL in it."""


@dataclass(frozen=True)
class Node:
    """A value and its place.

    Attributes:
        value: A text, number, bool or None; a list of nodes; or a dict from key to node.
        file: File as the user named it, or the option of the command line that gave the value.
        line: 1-based line (of the key, for the value of a key); ``None`` on the command line.
    """

    value: object
    file: str
    line: int | None = None

    @property
    def plain(self) -> object:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain for node in self.value]
        return self.value

    @property
    def entries(self) -> dict[str, Node]:
        """The nodes of a mapping; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The nodes of a list; a single value counts as a list of one."""
        return self.value if isinstance(self.value, list) else [self]


@dataclass
class Problems:
    """Collects what is wrong, each thing once, so that all of it is reported together."""

    by_text: dict[str, Problem] = field(default_factory=dict)

    def add(
        self,
        node: Node,
        key: str | None,
        message: str,
        *,
        given: object = MISSING,
        allowed: str | None = None,
        nearest: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Report ``message`` at the place of ``node``."""
        problem = Problem(message, node.file, node.line, key, given, allowed, nearest, hint)
        self.by_text.setdefault(problem.render(), problem)

    def __bool__(self) -> bool:
        return bool(self.by_text)

    def raise_any(self) -> None:
        """Raise one ``InputError`` with all problems, in the order of their lines, if there are any."""
        if not self.by_text:
            return
        found = sorted(self.by_text.values(), key=lambda problem: problem.line or 0)
        more = len(found) - MAX_PROBLEMS
        if more > 0:
            found[MAX_PROBLEMS:] = [Problem(f"{more} more problems", found[0].file)]
        raise InputError(found)


class _TooMuch(yaml.composer.ComposerError):
    """It may be YAML, but no grid asks for as much."""


class _Loader(yaml.SafeLoader):
    depth = 0
    values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        self.depth += 1
        self.values += 1
        refused = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            refused = "anchors and aliases (& and *) are not taken"
        elif getattr(event, "tag", None) is not None:
            refused = "tags (!) are not taken"
        elif self.depth > MAX_DEPTH:
            refused = f"more than {MAX_DEPTH} levels of nesting"
        elif isinstance(parent, yaml.CollectionNode) and len(parent.value) >= MAX_ENTRIES:
            raise _TooMuch(None, None, f"more than {MAX_ENTRIES} entries in one list or mapping", event.start_mark)
        elif self.values > MAX_VALUES:
            raise _TooMuch(None, None, f"more than {MAX_VALUES} values in one file", event.start_mark)
        if refused is not None:
            raise yaml.composer.ComposerError(None, None, refused, event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's rules for what is a number, bool or null, without its dates and base 60, and with ``1e-3``.

    YAML 1.1 takes ``1e-3`` (no dot) for text and ``12:30`` for 750; neither is what anyone means in a grid.
    """
    keep = {_TAG + "bool", _TAG + "null"}
    resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {
        first: [(tag, pattern) for tag, pattern in rules if tag in keep]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    whole = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z")
    decimal = r"(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    real = re.compile(rf"[-+]?{decimal}\Z|[-+]?\.inf\Z|\.nan\Z")
    for first in "-+.0123456789":
        resolvers.setdefault(first, []).extend([(_TAG + "int", whole), (_TAG + "float", real)])
    return resolvers


_Loader.yaml_implicit_resolvers = _resolvers()


class Dumper(yaml.SafeDumper):
    """Writes YAML that ``parse`` reads back as it was."""


Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
Dumper.add_representer(FrozenDict, yaml.SafeDumper.represent_dict)


def parse(text: str, file: str, problems: Problems, *, lines: bool = True) -> Node | None:
    """The document ``text`` as a tree of nodes; ``None`` if it is empty or no YAML (then a problem says where).

    Args:
        text: One YAML document.
        file: Name for messages.
        problems: Where to report.
        lines: Whether lines of ``text`` mean anything to the user.
    """
    if "\0" in text or len(text) > MAX_BYTES:
        problems.add(Node(None, file), None, f"not a grid: binary, or longer than {MAX_BYTES} characters")
        return None
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return None if root is None else _node(loader, root, file, lines, problems)
    except (yaml.YAMLError, RecursionError) as error:
        _report_syntax(error, text, file, lines, problems)
        return None
    finally:
        if loader is not None:
            loader.dispose()


def override(root: Node, path: tuple[str, ...], value: Node) -> Node:
    """``root`` with ``value`` at ``path``; what stands in the way and is no mapping is replaced."""
    if not path:
        return value
    entries = dict(root.entries)
    below = entries.get(path[0], Node({}, value.file, value.line))
    entries[path[0]] = override(below, path[1:], value)
    return replace(root, value=entries)


def drop(root: Node, path: tuple[str, ...]) -> Node:
    """``root`` without what is at ``path``, if anything is."""
    if path[0] not in root.entries:
        return root
    entries = dict(root.entries)
    below = entries.pop(path[0])
    if len(path) > 1:
        entries[path[0]] = drop(below, path[1:])
    return replace(root, value=entries)


def beside(node: Node, name: str) -> Path:
    """The path ``name`` as the file of ``node`` means it, or in the working directory where it is there alone.

    Raises one of ``NO_PATH`` where it is none.
    """
    path = Path(name).expanduser()
    near = Path(node.file).parent / path
    return near if near.exists() or not path.exists() else path


def _node(loader: _Loader, node: yaml.Node, file: str, lines: bool, problems: Problems) -> Node:
    def place(mark: yaml.Mark) -> int | None:
        return mark.line + 1 if lines else None

    here = Node(None, file, place(node.start_mark))
    if isinstance(node, yaml.SequenceNode):
        return replace(here, value=[_node(loader, item, file, lines, problems) for item in node.value])
    if isinstance(node, yaml.MappingNode):
        entries: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key_place = Node(None, file, place(key_node.start_mark))
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                given = key_node.value if isinstance(key_node, yaml.ScalarNode) else MISSING
                problems.add(key_place, None, "a key must be text", given=given, hint="Put it in quotes.")
                continue
            value = replace(_node(loader, value_node, file, lines, problems), line=key_place.line)
            if key_node.value in entries:
                first = entries[key_node.value].line
                where = f" (first on line {first})" if first is not None else ""
                problems.add(key_place, key_node.value, f"this key is given twice{where}")
            entries.setdefault(key_node.value, value)
        return replace(here, value=entries)
    if _NO_TEXT.search(node.value):
        problems.add(here, None, "a NUL or half of a character is no text", given=node.value)
    try:
        return replace(here, value=loader.construct_object(node))
    except ValueError:  # Python refuses to read a number of thousands of digits
        problems.add(here, None, "this number is too long", given=node.value)
        return replace(here, value=node.value)


def _report_syntax(error: Exception, text: str, file: str, lines: bool, problems: Problems) -> None:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark is not None and lines else None
    if isinstance(error, yaml.reader.ReaderError) and lines:
        line = text.count("\n", 0, error.position) + 1
    here = Node(None, file, line)
    tabbed = next(_tabbed_lines(text), None)
    if lines and tabbed is not None and (line is None or tabbed <= line):
        hint = "YAML is indented with spaces: replace every leading tab, e.g. by two spaces."
        problems.add(replace(here, line=tabbed), None, "this line is indented with a tab", hint=hint)
        return
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deeply"
    context = getattr(error, "context", None)
    what = "this asks for too much" if isinstance(error, _TooMuch) else "not valid YAML"
    problems.add(here, None, f"{what}: {f'{context}, ' if context else ''}{reason}")


def _tabbed_lines(text: str) -> Iterator[int]:
    for number, line in enumerate(text.splitlines(), start=1):
        if "\t" in line[: len(line) - len(line.lstrip())]:
            yield number
