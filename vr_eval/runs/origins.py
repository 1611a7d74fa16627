"""Whether the cells of a run come from the same weights: a branch may have moved between two checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id
from vr_eval.records.cell import CellRecord
from vr_eval.records.folder import RunFolder


def several_commits(run_dir: Path, grid: Grid) -> Iterator[str]:
    """A sentence for each model of the hub of which the evaluated cells of `grid` are of several commits.

    Raises:
        InputError: The `cell.json` of a cell is damaged.
    """
    found: dict[str, dict[str, str]] = {}
    for cell in grid.cells:
        for name, commit in _sources(RunFolder(run_dir).cell(cell_id(cell, grid)).about).items():
            found.setdefault(name, {}).setdefault(commit, cell.label)
    for name, commits in found.items():
        if len(commits) > 1:
            listed = ", ".join(f"{commit[:12]} ({label})" for commit, label in commits.items())
            yield (
                f"warning: cells are of several commits of {name}, and differ for that alone too: {listed}; name one "
                "commit in the grid file, ID@COMMIT, to compare what is alike"
            )


def _sources(about: Path) -> Mapping[str, str]:
    """What the `cell.json` of a cell says of its weights; nothing where it is not there or of before."""
    checkpoint = CellRecord.read(about).checkpoint if about.is_file() else None
    return (checkpoint.sources if checkpoint is not None else None) or {}
