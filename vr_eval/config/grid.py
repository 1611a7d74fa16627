"""``load_grid``: from a grid file (and the command line) to cells, with every problem of the file in one error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vr_eval import paths
from vr_eval.catalog.backbone import Loading
from vr_eval.catalog.backbones import BACKBONES, BackboneSpec
from vr_eval.catalog.recipe import Recipe
from vr_eval.catalog.stated import is_stated
from vr_eval.config.backbone import described_row
from vr_eval.config.cell import Cell
from vr_eval.config.decoding import Decoding
from vr_eval.config.document import MAX_BYTES, Dumper, Node, Problems, override, parse
from vr_eval.config.expand import expand, find_baseline
from vr_eval.config.parse import apply_overrides, read_grid_file
from vr_eval.config.schema import GridFile
from vr_eval.errors import InputError, Problem, nearest
from vr_eval.files import read_text
from vr_eval.methods.spec import MethodFile

__all__ = ["Cell", "Grid", "load_grid"]


@dataclass(frozen=True)
class Grid:
    """What one command runs.

    Attributes:
        name: Names the run directory.
        backbone: Name of its backbone.
        seeds: Seeds, in the file's order.
        tasks: (suite, task) pairs, in the file's order; a task outside of the backbone's suites is its own suite.
        cells: Every configuration with every seed; seeds of one configuration stand together.
        baseline: The cell that differences are taken to, with the first seed; ``None`` if the file names none.
        recipe: How all cells are trained.
        decoding: How all cells' answers are generated.
        limit: First questions of each task; ``None`` for all.
        batch_size: Questions answered at once.
        source: The file, as the user named it.
        loading: How weights are loaded for the evaluation.
        tasks_path: Folders with tasks of the user's own, as whole paths.
        method_files: Files with methods of the user's own, which were executed.
        recipe_line: Line of the recipe in the file, if it has one.
    """

    name: str
    backbone: str
    seeds: tuple[int, ...]
    tasks: tuple[tuple[str, str], ...]
    cells: tuple[Cell, ...]
    baseline: Cell | None
    recipe: Recipe
    limit: int | None
    batch_size: int
    source: str = dataclasses.field(compare=False)
    loading: Loading = dataclasses.field(default_factory=Loading)
    tasks_path: tuple[str, ...] = ()
    decoding: Decoding = dataclasses.field(default_factory=Decoding)
    method_files: tuple[MethodFile, ...] = ()
    recipe_line: int | None = dataclasses.field(default=None, compare=False)

    @property
    def run_dir(self) -> Path:
        """The run directory where ``--out`` names no other: ``runs/NAME`` in the working directory."""
        return Path("runs") / (f"{self.name}-random-weights" if self.random_weights else self.name)

    @property
    def random_weights(self) -> bool:
        """Whether the weights of its cells are drawn."""
        return self.cells[0].random_weights

    @property
    def spec(self) -> BackboneSpec:
        """Its backbone."""
        return self.cells[0].spec

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites of its tasks, each once."""
        return tuple(dict.fromkeys(suite for suite, _ in self.tasks))

    def is_baseline(self, cell: Cell) -> bool:
        """Whether ``cell`` has the baseline's configuration, with any seed."""
        return self.baseline is not None and dataclasses.replace(cell, seed=self.baseline.seed) == self.baseline

    def name_of(self, cell: Cell) -> str:
        """A cell for people: its label, and its seed where there are several."""
        return cell.label if len(self.seeds) == 1 else f"{cell.label} (seed {cell.seed})"

    def to_yaml(self) -> str:
        """A grid file without products or defaults that loads to this same grid."""
        content: dict[str, object] = {
            "name": self.name,
            "backbone": described_row(self.spec) if self.spec.preset else self.backbone,
            "seeds": list(self.seeds),
            "tasks": [task for _, task in self.tasks],
            "cells": [cell.row() for cell in self.cells if cell.seed == self.seeds[0]],
        }
        if self.tasks_path:
            content["tasks_path"] = list(self.tasks_path)
        if self.method_files:
            content["methods"] = [file.path for file in self.method_files]
        if self.baseline is not None:
            content["baseline"] = self._baseline_row(self.baseline)
        content["recipe"] = dataclasses.asdict(self.recipe)
        if self.random_weights:
            content["random_weights"] = True
        if self.decoding.stated:
            content["decoding"] = self.decoding.stated
        if self.limit is not None:
            content["limit"] = self.limit
        content["batch_size"] = self.batch_size
        return yaml.dump(content, Dumper=Dumper, sort_keys=False, default_flow_style=None, width=120)

    def _baseline_row(self, baseline: Cell) -> dict[str, object]:
        """A partial row for the baseline alone: where another cell differs only in an option that the baseline leaves
        at its default, that default is written out."""
        row = baseline.row()
        for cell in self.cells:
            for key in cell.row():
                method, dot, option = key.partition(".")
                if dot and key not in row and method in {used.name for used in baseline.methods}:
                    value = getattr(baseline.resolved(method), option)
                    row[key] = list(value) if isinstance(value, tuple) else value
        return row


def load_grid(
    path: str | Path,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    backbone: str | None = None,
    batch_size: int | None = None,
    loading: Mapping[str, Any] | None = None,
    random_weights: bool | None = None,
    tasks_path: Sequence[str] = (),
) -> Grid:
    """Read a grid file.

    Args:
        path: The file; a bare name such as ``projectors`` that is no file here means the ablation of that name.
        overrides: ``KEY=VALUE`` texts of ``--set``, values as YAML.
        limit: ``--limit``: first questions of each task.
        backbone: ``--backbone``: in place of the file's.
        batch_size: ``--batch-size``: in place of the file's.
        loading: ``--dtype`` and its like: fields of a ``Loading`` in place of the backbone's.
        random_weights: ``--random-weights``: weights are drawn, whatever the file says.
        tasks_path: ``--tasks-path``: folders with tasks beside those of the file, relative to the working directory.

    Raises:
        InputError: With every problem of the file and the command line.
    """
    problems = Problems()
    root, source = read_mapping(path, overrides, problems)
    if "kind" in root.entries:
        hint = f"Run it with `vr-eval probe {source}`."
        raise InputError(Problem("this file describes probes, not a grid", file=source, key="kind", hint=hint))
    given = {"limit": limit, "backbone": backbone, "batch_size": batch_size, "random_weights": random_weights}
    for key, value in given.items():
        if value is not None:
            root = override(root, (key,), Node(value, f"--{key.replace('_', '-')}"))
    if tasks_path:
        named = root.entries["tasks_path"].items if "tasks_path" in root.entries else []
        nodes = [Node(folder, "--tasks-path") for folder in tasks_path]
        root = override(root, ("tasks_path",), Node([*named, *nodes], "--tasks-path"))
    file, spec = read_grid_file(root, problems)
    if spec is None:
        problems.raise_any()
        raise AssertionError("a missing backbone is a problem")
    if file.random_weights:
        _check_stated(spec, root.entries["random_weights"], problems)
    cells = expand(file, root, spec, problems)
    _check_named(file, root, cells, problems)
    # With other problems about, a baseline that fits nothing would be an echo of them.
    baseline = find_baseline(file, cells, problems) if cells and not problems else None
    problems.raise_any()
    return Grid(
        name=file.name,
        backbone=spec.name,
        seeds=file.seeds,
        tasks=_tasks(file, spec),
        cells=cells,
        baseline=baseline,
        recipe=cells[0].recipe,
        limit=file.limit,
        batch_size=file.batch_size,
        source=source,
        decoding=file.decoding,
        loading=dataclasses.replace(spec.loading, **(loading or {})),
        tasks_path=file.tasks_path,
        method_files=file.methods,
        recipe_line=root.entries["recipe"].line if "recipe" in root.entries else None,
    )


def _check_named(file: GridFile, root: Node, cells: Sequence[Cell], problems: Problems) -> None:
    """A method that another grid of this process loaded is none of this one's."""
    for method in {method.name: method for cell in cells for method in cell.methods}.values():
        if method.file is not None and method.file not in file.methods:
            hint = f"Add it: methods: [{method.file.path}]"
            message = f"{method.name} stands in a file that this grid does not name"
            problems.add(root.entries.get("methods", root), "methods", message, hint=hint)


def _check_stated(spec: BackboneSpec, node: Node, problems: Problems) -> None:
    """Weights can be drawn where all shapes are known."""
    if spec.sources and not is_stated(spec):
        allowed = ", ".join(name for name, other in BACKBONES.items() if not other.sources or is_stated(other))
        message = f"the shapes of {spec.name} are not stated, so its weights cannot be drawn"
        problems.add(node, "random_weights", message, allowed=f"backbone: {allowed}, or one made of their parts")


def read_mapping(path: str | Path, overrides: Sequence[str], problems: Problems) -> tuple[Node, str]:
    """The keys of a file with the ``--set`` texts on top of it, none of them checked, and the file as messages name it.

    Raises:
        InputError: The file is missing, unreadable, empty, no YAML or no mapping.
    """
    found = find_file(path)
    source = str(path) if found == Path(path) else str(found)
    root = parse(read_text(found, source, MAX_BYTES + 1), source, problems)
    problems.raise_any()
    if root is None or root.value is None:
        hint = "See `vr-eval plan --help` for the keys."
        raise InputError(Problem("the file is empty", file=source, hint=hint))
    if not isinstance(root.value, dict):
        raise InputError(Problem("a grid file is a mapping of keys", file=source, line=root.line, given=root.plain))
    return apply_overrides(root, overrides, problems), source


def find_file(path: str | Path) -> Path:
    """The grid file that ``path`` names: a file here, or else an ablation that travels with the project.

    Raises:
        InputError: There is neither.
    """
    here = Path(path)
    shipped = paths.resource("ablations")
    names = sorted(file.stem for file in shipped.glob("*.yaml"))
    try:
        if here.is_file():
            return here
        if here.parent in (Path(), Path("ablations")) and here.suffix in ("", ".yaml") and here.stem in names:
            return shipped / f"{here.stem}.yaml"
        message = "this is a folder, not a grid file" if here.is_dir() else "there is no such file"
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        message = f"this cannot be a file: {error}"
    allowed = f"a file, or one of the ablations {', '.join(names)}" if names else None
    raise InputError(Problem(message, file=str(path), allowed=allowed, nearest=nearest(here.stem, names)))


def _tasks(file: GridFile, spec: BackboneSpec) -> tuple[tuple[str, str], ...]:
    if file.tasks is not None:
        suite_of = {task: suite for suite, tasks in spec.suites.items() for task in tasks}
        return tuple((suite_of.get(task, task), task) for task in file.tasks)
    suites = file.suites if file.suites is not None else tuple(spec.suites)
    return tuple((suite, task) for suite in suites for task in spec.suites[suite])
