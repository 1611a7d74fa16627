"""Report definitions: which columns a report shows, how it names things, and which published figures it cites.

`reports/NAME.yaml` belongs to the grid called NAME, `reports/default.yaml` to all others; `report.yaml` in a run
directory comes before both. `reports/README.md` documents the keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vr_eval.config.document import MAX_BYTES, Node, Problems, parse
from vr_eval.errors import nearest
from vr_eval.files import read_text
from vr_eval.paths import resource
from vr_eval.records.folder import RunFolder

COLUMNS = (
    *("method", "backbone", "ratio", "tokens", "suites", "average", "spread", "baseline", "pair", "kept"),
    *("parameters", "gflops", "questions", "coverage", "latency"),
)
TAGS = ("paper", "ours", "measured")
KEYS = ("columns", "names", "suites", "cited")
CITED_KEYS = ("source", "tag", "backbone", "measure", "figures")
FIGURE_KEYS = ("method", "over", "value")


@dataclass(frozen=True)
class Citation:
    """Figures of one publication. Each figure is (method, compared with, value)."""

    source: str
    tag: str
    backbone: str
    measure: str
    figures: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Definition:
    """A report definition; names that are not listed are shown as they are."""

    columns: tuple[str, ...]
    names: Mapping[str, str]
    suites: Mapping[str, str]
    cited: tuple[Citation, ...]

    def name(self, method: str) -> str:
        return self.names.get(method, method)

    def suite(self, suite: str) -> str:
        return self.suites.get(suite, suite)


def find_definition(run_dir: Path, grid: str) -> Path:
    """The definition's file for a run of the grid called ``grid``."""
    folder = resource("reports")
    # The name comes from a file of the run directory: it must not lead out of the folder.
    named = [folder / f"{grid}.yaml"] if re.fullmatch(r"[A-Za-z0-9_-]+", grid) else []
    return next((path for path in (RunFolder(run_dir).definition, *named) if path.is_file()), folder / "default.yaml")


def read_definition(path: Path) -> Definition:
    """Read a report definition.

    Raises:
        InputError: With every problem of the file.
    """
    problems = Problems()
    root = parse(read_text(path, str(path), MAX_BYTES + 1), str(path), problems) or Node({}, str(path), 1)
    _known_keys(root, "", KEYS, problems)
    columns = tuple(str(item.value) for item in root.entries["columns"].items) if "columns" in root.entries else COLUMNS
    for column in columns:
        if column not in COLUMNS:
            close = nearest(column, COLUMNS)
            problems.add(
                root.entries["columns"],
                "columns",
                "unknown column",
                given=column,
                allowed=", ".join(COLUMNS),
                nearest=close,
            )
    cited = root.entries.get("cited")
    definition = Definition(
        columns=columns,
        names=_names(root, "names", problems),
        suites=_names(root, "suites", problems),
        cited=tuple(_citation(item, problems) for item in cited.items) if cited is not None else (),
    )
    problems.raise_any()
    return definition


def _names(root: Node, key: str, problems: Problems) -> dict[str, str]:
    node = root.entries.get(key)
    if node is None:
        return {}
    names = {name: value.value for name, value in node.entries.items()}
    if not isinstance(node.value, dict) or not all(isinstance(value, str) for value in names.values()):
        problems.add(node, key, "must map names to texts")
        return {}
    return {name: str(value) for name, value in names.items()}


def _citation(node: Node, problems: Problems) -> Citation:
    _known_keys(node, "cited.", CITED_KEYS, problems, required=True)
    texts = {key: value.value for key, value in node.entries.items() if key != "figures"}
    tag = str(texts.get("tag", ""))
    if "tag" in texts and tag not in TAGS:
        problems.add(node.entries["tag"], "cited.tag", "unknown tag", given=tag, allowed=", ".join(TAGS))
    figures = []
    for item in node.entries["figures"].items if "figures" in node.entries else []:
        _known_keys(item, "cited.figures.", FIGURE_KEYS, problems, required=True)
        value = item.entries.get("value")
        if value is None:
            continue
        if isinstance(value.value, bool) or not isinstance(value.value, int | float):
            problems.add(value, "cited.figures.value", "must be a number", given=value.plain)
            continue
        method, over = (str(item.entries[key].value) if key in item.entries else "" for key in ("method", "over"))
        figures.append((method, over, float(value.value)))
    text = {key: str(texts.get(key, "")) for key in ("source", "backbone", "measure")}
    return Citation(tag=tag, figures=tuple(figures), **text)


def _known_keys(node: Node, prefix: str, known: tuple[str, ...], problems: Problems, *, required: bool = False) -> None:
    if not isinstance(node.value, dict):
        problems.add(node, prefix.rstrip(".") or None, "must be a mapping of keys", allowed=", ".join(known))
        return
    for key, value in node.entries.items():
        if key not in known:
            allowed = ", ".join(known)
            problems.add(value, prefix + key, "unknown key", allowed=allowed, nearest=nearest(key, known))
    for key in known if required else ():
        if key not in node.entries:
            problems.add(node, prefix + key, "this key is missing")
