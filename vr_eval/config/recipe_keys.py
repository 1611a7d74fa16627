"""The key ``recipe`` of a grid file: its keys, those of its stages, and the recipe file that they stand on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vr_eval.catalog.recipe import STAGES, Recipe
from vr_eval.config.document import MAX_BYTES, NO_PATH, Dumper, Node, Problems, beside, parse
from vr_eval.config.identity import flat_name
from vr_eval.config.keys import read_keys
from vr_eval.errors import nearest
from vr_eval.files import read_text
from vr_eval.methods.registry import METHODS
from vr_eval.paths import resource

# Recipes were flat once. Every such key to its stage and its key there.
_FLAT = {
    flat_name(stage, field.name): (stage, field.name)
    for stage, kind in STAGES.items()
    for field in dataclasses.fields(kind)
}
_SHOWN = 200  # characters of a value that are worth repeating


def read_recipe(node: Node, problems: Problems) -> dict[str, Any]:
    """The keys of ``recipe`` by name, those of a stage as a mapping of their own, on top of the file it is ``from``."""
    values = read_keys(Recipe, _nested(node, problems), "recipe", problems, ("from", *STAGES))
    for stage in STAGES:
        values[stage] = _read_stage(node.entries[stage], stage, problems) if stage in node.entries else {}
    if "lr_methods" in values:
        _check_learning(node.entries["lr_methods"], problems)
    file = _recipe_file(node.entries["from"], problems) if "from" in node.entries else None
    if file is None:
        return values
    base = read_recipe(file, problems)
    merged = {key: {**base.get(key, {}), **values.get(key, {})} for key in (*STAGES, "lr_methods")}
    return base | values | merged


def _nested(node: Node, problems: Problems) -> Node:
    """``node`` without the keys of a flat recipe, which are reported."""
    old = {_FLAT[name]: item for name, item in node.entries.items() if name in _FLAT}
    for stage in STAGES:
        _refuse_flat(stage, {key: item for (of, key), item in old.items() if of == stage}, problems)
    kept = {name: item for name, item in node.entries.items() if name not in _FLAT}
    return dataclasses.replace(node, value=kept) if node.entries else node


def _refuse_flat(stage: str, keys: Mapping[str, Node], problems: Problems) -> None:
    """Report ``keys`` of ``stage`` that stand beside it; the first of a file says what to write for all of them."""
    in_file = {key: item for key, item in keys.items() if item.line is not None}
    for key, item in keys.items():
        hint = None
        if item.line is None:
            hint = f"Write `recipe.{stage}.{key}={_shown(key, item).removeprefix(f'{key}: ')}`."
        elif item is next(iter(in_file.values())):
            hint = f"Write `{stage}: {{{', '.join(_shown(*entry) for entry in in_file.items())}}}`."
        message = f"this is `{key}` of the mapping `{stage}`"
        problems.add(item, f"recipe.{flat_name(stage, key)}", message, given=item.plain, hint=hint)


def _shown(key: str, node: Node) -> str:
    """A key and its value as YAML in one line, too long a value left out."""
    dumped: str = yaml.dump({key: node.plain}, Dumper=Dumper, default_flow_style=True, width=math.inf).strip()
    return dumped[1:-1] if len(dumped) < _SHOWN else f"{key}: .."


def _read_stage(node: Node, stage: str, problems: Problems) -> dict[str, Any]:
    place = f"recipe.{stage}"
    values = read_keys(STAGES[stage], node, place, problems)
    for key in ("data", "image_folder"):
        if values.get(key) is not None:
            values[key] = _place(node.entries[key], f"{place}.{key}", problems)
    return values


def _check_learning(node: Node, problems: Problems) -> None:
    """Rates are for methods that learn."""
    known = [name for name, method in METHODS.items() if method.trainable]
    for name, item in node.entries.items():
        if name not in known:
            problems.add(
                item,
                f"recipe.lr_methods.{name}",
                "no method of this name learns",
                allowed=", ".join(known),
                nearest=nearest(name, known),
            )


def _recipe_file(node: Node, problems: Problems) -> Node | None:
    """The mapping in the file that ``recipe.from`` names: one here, or a recipe that travels with the project."""
    shipped = resource("ablations") / "recipes"
    names = sorted(file.stem for file in shipped.glob("*.yaml"))
    name = str(node.plain)
    try:
        here = beside(node, name)
        found = here if here.is_file() else shipped / f"{Path(name).stem}.yaml"
    except NO_PATH as error:
        problems.add(node, "recipe.from", f"this cannot be a path: {error}", given=name)
        return None
    if not found.is_file():
        allowed = f"a file, or one of {', '.join(names)}"
        close = nearest(Path(name).stem, names)
        problems.add(node, "recipe.from", "there is no such recipe", given=name, allowed=allowed, nearest=close)
        return None
    root = parse(read_text(found, str(found), MAX_BYTES + 1), str(found), problems)
    if root is not None and "from" in root.entries:
        problems.add(root.entries["from"], "from", "a recipe file stands on no other")
        return None
    return root


def _place(node: Node, key: str, problems: Problems) -> str:
    """Data or a folder of images: relative to the file that names it, else to the working directory, else a hub id."""
    name = str(node.value)
    try:
        path = beside(node, name)
        if path.exists():
            return str(path.resolve())
    except NO_PATH as error:
        problems.add(node, key, f"this cannot be a path: {error}", given=name)
        return name
    folder = key.endswith(".image_folder")
    if folder or Path(name).suffix in (".json", ".jsonl", ".parquet") or name.startswith((".", "/", "~")):
        hint = f"Looked for {path}." if str(path) != name else None
        problems.add(node, key, f"there is no such {'folder' if folder else 'file or folder'}", given=name, hint=hint)
    return name
