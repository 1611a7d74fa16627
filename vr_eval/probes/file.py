"""``load_probes``: from a probe file (and the command line) to what is probed, every problem in one error.

Light: imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vr_eval.catalog.fields import allowed_of, checked
from vr_eval.config.cell import Cell
from vr_eval.config.document import Node, Problems
from vr_eval.config.grid import load_grid, read_mapping
from vr_eval.config.identity import checkpoint_id, digest
from vr_eval.config.schema import NAME_ALLOWED, NAME_PATTERN
from vr_eval.errors import InputError, nearest
from vr_eval.methods.spec import MethodFile
from vr_eval.probes.options import ProbeFile, probe_keys
from vr_eval.probes.tapnames import COMPONENTS, every_tap

_REQUIRED = ("kind", "name", "grids")
_LISTS = ("grids", "data", "taps", "pools", "probes", "strengths")


@dataclass(frozen=True)
class ProbePlan:
    """What one command probes.

    Attributes:
        file: The checked keys.
        cells: The cells of all its grids, each once, in order.
        baseline: The baseline of the first grid that has one.
        source: The file, as the user named it.
        method_files: Files with methods of the user's own that its grids name; they were executed.
    """

    file: ProbeFile
    cells: tuple[Cell, ...]
    baseline: Cell | None
    source: str
    method_files: tuple[MethodFile, ...] = ()

    @property
    def random_weights(self) -> bool:
        """Whether the weights of its models are drawn."""
        return self.cells[0].random_weights

    @property
    def run_dir(self) -> Path:
        """Where results go if ``--out`` names no other folder: ``runs/NAME`` in the working directory."""
        return Path("runs") / (f"{self.file.name}-random-weights" if self.random_weights else self.file.name)


def probe_id(cell: Cell) -> str:
    """16 hex digits that name what is probed: a checkpoint, and how it is pruned."""
    return digest({"checkpoint": checkpoint_id(cell), "row": cell.row()})


def load_probes(path: str | Path, overrides: Sequence[str] = (), random_weights: bool | None = None) -> ProbePlan:
    """Read a probe file; a bare name means the one of that name that travels with the project.

    `random_weights`: weights are drawn, whatever its grids say.

    Raises:
        InputError: With every problem of the file, its grids and the command line.
    """
    problems = Problems()
    root, source = read_mapping(path, overrides, problems)
    if "kind" not in root.entries and "backbone" in root.entries:
        problems.add(root, "kind", "this is a grid, not a probe file", hint=f"Name it under grids: [{source}].")
        problems.raise_any()
    given = _read_keys(root, problems)
    cells, baseline, files = _cells(root, given.get("grids", ()), problems, random_weights)
    if "taps" in given:
        _check_taps(root.entries["taps"], cells, problems)
    if "tiny_imagenet" in given.get("data", ()) and given.get("tiny_imagenet") is None:
        hint = "Download http://cs231n.stanford.edu/tiny-imagenet-200.zip, unpack it and name its folder."
        problems.add(root.entries["data"], "tiny_imagenet", "must be given for the data tiny_imagenet", hint=hint)
    problems.raise_any()
    return ProbePlan(ProbeFile(**given), cells, baseline, source, files)


def _read_keys(root: Node, problems: Problems) -> dict[str, Any]:
    known = probe_keys()
    given: dict[str, Any] = {}
    for key in _REQUIRED:
        if key not in root.entries or root.entries[key].value is None:
            problems.add(root, key, "must be given", allowed=allowed_of(ProbeFile, key))
    for key, node in root.entries.items():
        if key not in known:
            problems.add(node, key, "unknown key", allowed=", ".join(known), nearest=nearest(key, known))
        elif key in _LISTS and node.value is not None:
            given[key] = _list(key, node, problems)
        elif node.value is not None or key not in _REQUIRED:
            _one(key, node, given, problems)
    return given


def _one(key: str, node: Node, given: dict[str, Any], problems: Problems) -> None:
    try:
        given[key] = checked(ProbeFile, key, node.plain)
    except ValueError as error:
        close = nearest(node.value, str(error).split(", ")) if isinstance(node.value, str) else None
        problems.add(node, key, "this value does not fit", given=node.plain, allowed=str(error), nearest=close)
        return
    if key == "name" and not re.fullmatch(NAME_PATTERN, given["name"]):
        problems.add(node, key, "cannot name a run", given=node.plain, allowed=NAME_ALLOWED)


def _list(key: str, node: Node, problems: Problems) -> tuple[Any, ...]:
    """A list whose every entry is checked by itself; one value will do for a list of one."""
    values: list[Any] = []
    if not node.items:
        problems.add(node, key, "the list is empty", allowed=allowed_of(ProbeFile, key))
    for item in node.items:
        try:
            value = checked(ProbeFile, key, [item.plain])
        except ValueError as error:
            allowed = str(error).removesuffix(", or null").removeprefix("a list of: ")
            close = nearest(item.value, allowed.split(", ")) if isinstance(item.value, str) else None
            problems.add(item, key, "this value does not fit", given=item.plain, allowed=allowed, nearest=close)
            continue
        entry = value[0]  # type: ignore[index]
        if entry in values:
            problems.add(item, key, "given twice", given=item.plain)
            continue
        values.append(entry)
    return tuple(values)


def _cells(
    root: Node, grids: Sequence[str], problems: Problems, random_weights: bool | None
) -> tuple[tuple[Cell, ...], Cell | None, tuple[MethodFile, ...]]:
    cells: dict[Cell, None] = {}
    files: dict[MethodFile, None] = {}
    baseline = None
    for item in root.entries["grids"].items if grids else ():
        if item.value not in grids:
            continue
        try:
            grid = load_grid(str(item.value), random_weights=random_weights)
        except InputError as error:
            for problem in error.problems:  # each with its place in the grid's own file
                problems.by_text.setdefault(problem.render(), problem)
            continue
        cells |= dict.fromkeys(grid.cells)
        files |= dict.fromkeys(grid.method_files)
        baseline = baseline or grid.baseline
        if len({cell.spec for cell in cells}) > 1:
            problems.add(item, "grids", "the grids have different backbones", hint="One probe file, one backbone.")
        if len({cell.random_weights for cell in cells}) > 1:
            hint = "--random-weights draws those of all."
            problems.add(item, "grids", "random weights in one grid and real ones in another", hint=hint)
    return tuple(cells), baseline, tuple(files)


def _check_taps(node: Node, cells: Sequence[Cell], problems: Problems) -> None:
    if not cells:
        return
    spec = cells[0].spec
    names = (*COMPONENTS, *every_tap(spec.tower_depth, spec.decoder_depth))
    for item in node.items:
        if isinstance(item.value, str) and item.value not in names:
            allowed = (
                f"{', '.join(COMPONENTS)}, tower.0 to tower.{spec.tower_depth}, tower.out, "
                f"decoder.0 to decoder.{spec.decoder_depth - 1}, each of these with +refusion or +pruning"
            )
            message = f"the backbone {spec.name} has no such tap"
            problems.add(item, "taps", message, given=item.value, allowed=allowed, nearest=nearest(item.value, names))


def label_of(cell: Cell, cells: Sequence[Cell]) -> str:
    """The cell's label, with its seed where another cell differs in nothing else that the label shows."""
    alike = [other for other in cells if other.label == cell.label]
    return cell.label if len(alike) == 1 else f"{cell.label} (seed {cell.seed})"


def same_without_refusion(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The cell that differs from `cell` in its refusion alone, if it is there."""
    if cell.refusion == "none":
        return None
    options = {name: given for name, given in cell.options.items() if name != cell.refusion}
    plain = dataclasses.replace(cell, refusion="none", options=options)
    return plain if plain in cells else None
