"""From nodes to a ``GridFile``: each key of a grid file checked by itself, all problems collected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from vr_eval.catalog.backbones import BackboneSpec
from vr_eval.catalog.fields import checked
from vr_eval.catalog.tasks import task_files
from vr_eval.config.backbone import read_backbone
from vr_eval.config.decoding import read_decoding
from vr_eval.config.document import NO_PATH, Node, Problems, beside, drop, override, parse
from vr_eval.config.method_files import read_method_files
from vr_eval.config.recipe_keys import read_recipe
from vr_eval.config.rows import read_axes, read_options, read_row, read_rows
from vr_eval.config.schema import MAX_EXCLUDED, NAME_ALLOWED, NAME_PATTERN, GridFile, grid_keys
from vr_eval.errors import InputError, nearest

# How many parts a key of --set has below its first: the rest is one key, dots and all (`grid.vision_remember.scope`).
_LEVELS = {"grid": 1, "baseline": 1, "recipe": 2, "options": 2, "backbone": 2, "decoding": 1}
# What stands in for others: setting one on the command line drops the file's others.
_INSTEAD_OF = {
    "suites": ("tasks",),
    "tasks": ("suites",),
    "backbone.checkpoint": ("backbone.tower", "backbone.decoder"),
    "backbone.tower": ("backbone.checkpoint",),
    "backbone.decoder": ("backbone.checkpoint",),
}
# Where null means the same as leaving the key out.
_MAY_BE_NULL = ("suites", "tasks", "tasks_path", "methods", "baseline", "decoding", "limit")


def apply_overrides(root: Node, overrides: Iterable[str], problems: Problems) -> Node:
    """``root`` with every ``KEY=VALUE`` of ``--set``; the last one for a key counts. Values are YAML."""
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            hint = "For example: --set recipe.stage2.steps=50"
            problems.add(Node(None, "--set"), None, "must look like KEY=VALUE", given=text, hint=hint)
            continue
        failed = Problems()
        node = parse(value, "--set", failed, lines=False)
        for problem in failed.by_text.values():
            problems.add(Node(None, "--set"), key, problem.message, given=text)
        if failed:
            continue
        top, dot, rest = key.partition(".")
        levels = _LEVELS.get(top, 0)
        if dot and not levels and top in grid_keys():
            problems.add(Node(None, "--set"), key, f"there are no keys below {top}", given=text)
            continue
        path = (top, *rest.split(".", levels - 1)) if dot and levels else (key,)
        for other in _INSTEAD_OF.get(key, ()):
            root = drop(root, tuple(other.split(".")))
        root = override(root, path, node or Node(None, "--set"))
    return root


def read_grid_file(root: Node, problems: Problems) -> tuple[GridFile, BackboneSpec | None]:
    """All keys of the mapping ``root``; ``None`` for the backbone if it is missing or unknown."""
    known = grid_keys()
    for key, node in root.entries.items():
        if key not in known:
            problems.add(node, key, "unknown key", allowed=", ".join(known), nearest=nearest(key, known))
    entries = {key: node for key, node in root.entries.items() if not (key in _MAY_BE_NULL and node.value is None)}
    before = len(problems.by_text)
    given: dict[str, object] = {"methods": read_method_files(entries.get("methods"), problems)}
    if len(problems.by_text) > before:
        problems.raise_any()  # without its methods, much of the rest would be unknown: an echo
    if name := _text(root, "name", problems):
        given["name"] = name
    spec = read_backbone(root, problems)
    if spec is not None:
        given["backbone"] = spec.name
    for key in ("seeds", "random_weights", "limit", "batch_size"):
        _simple(entries.get(key), key, given, problems)
    folders = _folders(entries.get("tasks_path"), problems)
    given["tasks_path"] = folders or ()
    for key in ("suites", "tasks"):
        if key in entries:
            # Without the folders, tasks that are theirs would be unknown: an echo of what is wrong with them.
            checked_by = spec if key == "suites" or folders is not None else None
            given[key] = _names(entries[key], key, checked_by, folders or (), problems)
    if "suites" in entries and "tasks" in entries:
        problems.add(entries["tasks"], "tasks", "suites and tasks exclude each other", hint="Keep one of them.")
    if "grid" in entries:
        given["grid"] = read_axes(entries["grid"], spec, problems)
    for key in ("cells", "exclude"):
        if key in entries:
            given[key] = read_rows(entries[key], key, spec, problems)
    if len(given.get("exclude", ())) > MAX_EXCLUDED:  # type: ignore[arg-type]
        count = len(entries["exclude"].items)
        problems.add(entries["exclude"], "exclude", f"it has {count} rows", allowed=f"at most {MAX_EXCLUDED}")
        given["exclude"] = ()
    if "baseline" in entries:
        given["baseline"] = read_row(entries["baseline"], "baseline", spec, problems)
    if "recipe" in entries:
        given["recipe"] = read_recipe(entries["recipe"], problems)
    if "decoding" in entries:
        given["decoding"] = read_decoding(entries["decoding"], problems)
    if "options" in entries:
        given["options"] = read_options(entries["options"], problems)
    if "exclude" in entries and "grid" not in entries:
        problems.add(entries["exclude"], "exclude", "there is no grid to exclude anything from")
    if "grid" not in entries and not entries.get("cells", Node([], "")).value:
        hint = "For example: grid: {projector: [avg_pool, tokenpacker], ratio: [4]}"
        problems.add(root, None, "the file asks for no cell: give grid or cells", hint=hint)
    return GridFile(**given), spec  # type: ignore[arg-type]


def _text(root: Node, key: str, problems: Problems) -> str | None:
    node = root.entries.get(key)
    if node is None or node.value is None:
        problems.add(node or root, key, "must be given", allowed=NAME_ALLOWED)
    elif not isinstance(node.value, str):
        hint = "Put it in quotes." if isinstance(node.value, int | float) else None
        problems.add(node, key, "must be text", given=node.plain, allowed=NAME_ALLOWED, hint=hint)
    elif not re.fullmatch(NAME_PATTERN, node.value):
        hint = "It names a folder in runs/; --out puts the run elsewhere."
        problems.add(node, key, "cannot name a run", given=node.value, allowed=NAME_ALLOWED, hint=hint)
    else:
        return node.value
    return None


def _simple(node: Node | None, key: str, given: dict[str, object], problems: Problems) -> None:
    """A number or a list of numbers; where a list is asked for, one number will do, and none may come twice."""
    if node is None:
        return
    items = node.items if key == "seeds" else [node]
    if not items:
        problems.add(node, key, "the list is empty")
    values: list[object] = []
    for item in items:
        try:
            value = checked(GridFile, key, [item.plain] if key == "seeds" else item.plain)
        except ValueError as error:
            allowed = str(error).removeprefix("a list of: ")
            problems.add(item, key, "this value does not fit", given=item.plain, allowed=allowed)
            continue
        if value in values:
            problems.add(item, key, "given twice", given=item.plain)
        values.append(value)
    if key != "seeds" and values:
        given[key] = values[0]
    elif values:
        given[key] = tuple(seed for value in values for seed in value)  # type: ignore[attr-defined]


def _folders(node: Node | None, problems: Problems) -> tuple[str, ...] | None:
    """The folders of ``tasks_path``, whole paths, each once; ``None`` if their tasks cannot be taken."""
    folders: list[str] = []
    before = len(problems.by_text)
    for item in node.items if node is not None else ():
        if not isinstance(item.value, str):
            problems.add(item, "tasks_path", "must be folders", given=item.plain)
            continue
        try:
            path = beside(item, item.value)
            found = path.is_dir()
        except NO_PATH as error:
            problems.add(item, "tasks_path", f"this cannot be a path: {error}", given=item.value)
            continue
        if not found:
            hint = f"Looked for {path}." if str(path) != item.value else None
            problems.add(item, "tasks_path", "there is no such folder", given=item.value, hint=hint)
        else:
            folders.append(str(path.resolve()))
    own = tuple(dict.fromkeys(folders))
    try:
        task_files(own)
    except InputError as error:
        for problem in error.problems:  # each with its place in the task's own file
            problems.by_text.setdefault(problem.render(), problem)
    return own if len(problems.by_text) == before else None


def _names(
    node: Node, key: str, spec: BackboneSpec | None, folders: tuple[str, ...], problems: Problems
) -> tuple[str, ...]:
    """The list ``suites`` or ``tasks``."""
    known: Mapping[str, object] | tuple[str, ...] = ()
    if spec is not None:
        known = spec.suites if key == "suites" else tuple(dict.fromkeys((*spec.tasks, *sorted(task_files(folders)))))
    names: list[str] = []
    if not node.items:
        problems.add(node, key, "the list is empty", allowed=", ".join(known) or None)
    for item in node.items:
        if not isinstance(item.value, str):
            problems.add(item, key, "must be names", given=item.plain, allowed=", ".join(known) or None)
        elif spec is not None and item.value not in known:
            problems.add(
                item,
                key,
                f"unknown {key.removesuffix('s')}",
                given=item.value,
                allowed=", ".join(known),
                nearest=nearest(item.value, known),
            )
        elif item.value in names:
            problems.add(item, key, "given twice", given=item.value)
        else:
            names.append(item.value)
    return tuple(names)
