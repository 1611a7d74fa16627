"""From a ``GridFile`` to cells: products, rows, exclusions, and what cannot go together."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vr_eval.catalog.backbones import BackboneSpec
from vr_eval.catalog.frozen import FrozenDict
from vr_eval.catalog.recipe import STAGES, Recipe
from vr_eval.config.cell import SEAMS, Cell
from vr_eval.config.document import Node, Problems
from vr_eval.config.schema import MAX_CELLS, GridFile, Row
from vr_eval.methods.options import Options
from vr_eval.methods.registry import METHODS, NONE, projector_options
from vr_eval.methods.together import clashes


@dataclass(frozen=True)
class _Origin:
    """Where a configuration was asked for."""

    place: str
    node: Node
    nodes: Mapping[str, Node]

    def at(self, key: str) -> tuple[Node, str]:
        """The place of ``key`` if it was written, else that of the whole row or grid."""
        return (self.nodes[key], f"{self.place}.{key}") if key in self.nodes else (self.node, self.place)


def expand(file: GridFile, root: Node, spec: BackboneSpec, problems: Problems) -> tuple[Cell, ...]:
    """All cells of ``file``: the grid's combinations, then the rows of ``cells``, each with every seed."""
    recipe = _changed(spec.recipe, file.recipe)
    if recipe.steps == 0 and "recipe" in root.entries:
        problems.add(root.entries["recipe"], "recipe", "both stages have 0 steps: nothing is trained")
    asked = math.prod(len(axis) for axis in file.grid.values()) if file.grid else 0
    if (asked + len(file.cells)) * len(file.seeds) > MAX_CELLS:
        count = (asked + len(file.cells)) * len(file.seeds)
        node = root.entries.get("grid", root)
        problems.add(node, "grid", f"this asks for {count} cells, seeds included", allowed=f"at most {MAX_CELLS}")
        return ()
    found: dict[Cell, _Origin] = {}
    _expand_axes(file, root, spec, recipe, found, problems)
    for i, row in enumerate(file.cells):
        origin = _Origin(f"cells[{i}]", row.node, row.nodes)
        cell = _cell(row.values, origin, file, spec, recipe, problems)
        if cell is None:
            continue
        if cell in found:
            first = found[cell].node
            where = f"line {first.line}" if first.line is not None else first.file
            problems.add(row.node, origin.place, f"this is {cell.label} again (first: {found[cell].place}, {where})")
        found.setdefault(cell, origin)
    if not problems:
        _check_unused(file, tuple(found), problems)
    return tuple(dataclasses.replace(cell, seed=seed) for cell in found for seed in file.seeds)


def find_baseline(file: GridFile, cells: Sequence[Cell], problems: Problems) -> Cell | None:
    """The cell (with the first seed) that ``baseline`` stands for, if it is given."""
    if file.baseline is None:
        return None
    row = file.baseline
    matching = [cell for cell in cells if cell.seed == cells[0].seed and matches(row.values, cell)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        labels = "; ".join(cell.label for cell in matching[:6])
        hint = "Give it more keys, e.g. ratio or refusion: none."
        problems.add(row.node, "baseline", f"this fits {len(matching)} configurations: {labels}", hint=hint)
    else:
        hint = "Add the configuration to cells, or name one of those that the grid has."
        problems.add(row.node, "baseline", "this fits no configuration of the grid", given=row.node.plain, hint=hint)
    return None


def matches(partial: Mapping[str, object], cell: Cell) -> bool:
    """Whether ``cell`` agrees with every key of a partial row; an option agrees only if the cell uses its method."""
    return all(_agrees(key, value, cell) for key, value in partial.items())


def _agrees(key: str, value: object, cell: Cell) -> bool:
    method, dot, option = key.partition(".")
    if not dot:
        return bool(getattr(cell, key) == value)
    if method not in {used.name for used in cell.methods}:
        return False
    wanted = dataclasses.replace(METHODS[method].options(), **{option: value}).resolve(cell.spec)
    return bool(getattr(cell.resolved(method), option) == getattr(wanted, option))


def _changed(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """``recipe`` with what a grid file gives; of stages and of ``lr_methods`` only the keys that are given change."""
    changes = {name: value for name, value in given.items() if name not in STAGES}
    changes |= {name: dataclasses.replace(getattr(recipe, name), **given[name]) for name in STAGES if name in given}
    changes["lr_methods"] = FrozenDict({**recipe.lr_methods, **given.get("lr_methods", {})})
    return dataclasses.replace(recipe, **changes)


def _expand_axes(
    file: GridFile, root: Node, spec: BackboneSpec, recipe: Recipe, found: dict[Cell, _Origin], problems: Problems
) -> None:
    if not file.grid:
        return
    node = root.entries["grid"]
    if "projector" not in file.grid:
        if "projector" not in node.entries:  # else its values were bad, and reported
            problems.add(node, "grid", "the axis projector is missing")
        return
    excluded = [0] * len(file.exclude)
    for combination in itertools.product(*file.grid.values()):
        nodes = dict(zip(file.grid, combination, strict=True))
        values = {key: item.value for key, item in nodes.items()}
        hits = [i for i, row in enumerate(file.exclude) if _excludes(row, values)]
        for i in hits:
            excluded[i] += 1
        if hits:
            continue
        # An option axis says nothing about configurations without the method: their duplicates are merged.
        used = {values.get(seam) for seam in SEAMS}
        values = {key: value for key, value in values.items() if "." not in key or key.partition(".")[0] in used}
        origin = _Origin("grid", node, nodes)
        cell = _cell(values, origin, file, spec, recipe, problems)
        if cell is not None:
            found.setdefault(cell, origin)
    for i, row in enumerate(file.exclude):
        if not excluded[i] and not problems:
            problems.add(row.node, f"exclude[{i}]", "no combination of the grid agrees with this", given=row.node.plain)
    if not found and not problems:
        problems.add(node, "grid", "every combination of the grid is excluded")


def _excludes(row: Row, values: Mapping[str, object]) -> bool:
    """Whether an ``exclude`` row agrees with a combination as it was written (it may be an impossible one)."""
    filled = {"ratio": 1, **dict.fromkeys(SEAMS[1:], NONE), **values}
    return bool(row.values) and all(key in filled and filled[key] == value for key, value in row.values.items())


def _cell(
    values: Mapping[str, object],
    origin: _Origin,
    file: GridFile,
    spec: BackboneSpec,
    recipe: Recipe,
    problems: Problems,
) -> Cell | None:
    """The cell of a checked row; ``None``, and at least one problem reported, if it is impossible."""
    row = {**dict.fromkeys(SEAMS[1:], NONE), **values}
    if "projector" not in row:
        if "projector" not in origin.node.entries:
            problems.add(origin.node, f"{origin.place}.projector", "must be given")
        return None
    projector = METHODS[str(row["projector"])]
    possible = projector_options(projector.name).ratios(spec.grid)
    in_grid = origin.place == "grid"
    if "ratio" not in row:
        if "ratio" in origin.node.entries:
            return None  # a bad ratio was reported already
        if len(possible) > 1:
            node, place = origin.at("projector")
            allowed = ", ".join(map(str, possible))
            problems.add(node, place, f"{projector.name} needs a ratio", allowed=allowed, hint="Add the key ratio.")
            return None
        row["ratio"] = possible[0]
    if row["ratio"] not in possible:
        node, place = origin.at("projector" if in_grid else "ratio")
        hint = f"Leave it out with exclude: [{{projector: {projector.name}}}], and add what you need to cells."
        problems.add(
            node,
            place,
            f"{projector.name} cannot make a ratio of 1/{row['ratio']}",
            allowed=f"ratio: {', '.join(map(str, possible))}",
            hint=hint if in_grid else None,
        )
        return None
    names = [str(row[seam]) for seam in SEAMS if row[seam] != NONE]
    fits = [_check_method(name, row, origin, file, spec, problems) for name in names]
    options = {name: _options(name, row, file) for name in names}
    if not all(fits):
        return None
    cell = Cell(
        backbone=spec.name,
        projector=projector.name,
        ratio=int(str(row["ratio"])),
        refusion=str(row["refusion"]),
        pruning=str(row["pruning"]),
        image=str(row["image"]),
        seed=file.seeds[0],
        options=options,
        recipe=recipe,
        described=spec if spec.preset else None,
        random_weights=file.random_weights,
    )
    return cell if _check_together(cell, origin, problems) else None


def _check_together(cell: Cell, origin: _Origin, problems: Problems) -> bool:
    """Whether the cell's methods go together; what does not is reported."""
    options = {method.name: cell.resolved(method.name) for method in cell.methods}
    found = list(clashes(options, cell.spec.grid, cell.ratio))
    row = ", ".join(f"{seam}: {getattr(cell, seam)}" for seam in SEAMS)
    left_out = f"Leave it out with exclude: [{{{row}}}]" if origin.place == "grid" else None
    for clash in found:
        hint = left_out if clash.key == "image" else None
        problems.add(*origin.at(clash.key), clash.message, allowed=clash.allowed, hint=hint)
    return not found


def _options(method: str, row: Mapping[str, object], file: GridFile) -> dict[str, object]:
    """Options of ``method`` in a row: those of top-level ``options``, and over them the row's own."""
    everywhere = file.options[method].values if method in file.options else {}
    own = {key.partition(".")[2]: value for key, value in row.items() if key.startswith(f"{method}.")}
    return {**everywhere, **own}


def _check_method(
    name: str, row: Mapping[str, object], origin: _Origin, file: GridFile, spec: BackboneSpec, problems: Problems
) -> bool:
    """Whether a method fits the backbone and its options; what does not is reported."""
    options: Options = dataclasses.replace(METHODS[name].options(), **_options(name, row, file))
    faults = (*options.faults(spec), *options.ratio_faults(spec, int(str(row["ratio"]))))
    for fault in faults:
        at, key = origin.at(f"{name}.{fault.option}")
        everywhere = file.options.get(name)
        if f"{name}.{fault.option}" not in row and everywhere and fault.option in everywhere.nodes:
            at, key = everywhere.nodes[fault.option], f"options.{name}.{fault.option}"
        problems.add(at, key, f"{name}: {fault.message}", allowed=fault.allowed)
    unused = [key for key in row if "." in key and key.partition(".")[0] not in {row[seam] for seam in SEAMS}]
    for key in unused:
        at, where = origin.at(key)
        problems.add(at, where, f"this row does not use {key.partition('.')[0]}")
    return not (faults or unused)


def _check_unused(file: GridFile, cells: Sequence[Cell], problems: Problems) -> None:
    used = {method.name for cell in cells for method in cell.methods}
    for method, row in file.options.items():
        if method not in used:
            problems.add(row.node, f"options.{method}", f"no cell of this file uses {method}")
    for key, axis in file.grid.items():
        method = key.partition(".")[0]
        if "." in key and method not in used:
            problems.add(axis[0], f"grid.{key}", f"no cell of this file uses {method}")
