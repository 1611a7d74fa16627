"""What a report is made from: the files of one run directory, read and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vr_eval.config.document import Problems, parse
from vr_eval.environment import Environment
from vr_eval.files import read_text
from vr_eval.records.cell import CellRecord
from vr_eval.records.columns import RANDOM, WEIGHTS
from vr_eval.records.folder import RunFolder
from vr_eval.records.frame import cells_of, read_records
from vr_eval.records.json_file import plain, read_json


@dataclass(frozen=True)
class Source:
    """A run directory as read.

    Attributes:
        path: The run directory.
        name: Name of the grid.
        question: First paragraph of the grid file's leading comment; empty if it has none.
        about: The comment's other paragraphs, one text each.
        notes: What the grid says about the run that its results do not: a limit, cells without results.
        environment: `environment.json`; None if it is not there.
        cells: Cell id to its `cell.json`; cells that have records but no such file are filled in from the records.
        records: One row per cell and question (`records.columns`). Text columns hold no missing values; `score` is
            NaN exactly where `failure` is not empty.
    """

    path: Path
    name: str
    question: str
    about: tuple[str, ...]
    notes: tuple[str, ...]
    environment: Environment | None
    cells: Mapping[str, CellRecord]
    records: pd.DataFrame

    @property
    def random_weights(self) -> bool:
        """Whether its cells ran on weights that were drawn."""
        return bool((self.records[WEIGHTS] == RANDOM).any())


def read_run(run_dir: Path) -> Source:
    """Read the run directory ``run_dir``.

    Raises:
        InputError: It is missing, is no run directory, or one of its files is broken.
    """
    records, folder = read_records(run_dir), RunFolder(run_dir)
    text = read_text(folder.grid, str(folder.grid)) if folder.grid.is_file() else ""
    grid = _grid(text, str(folder.grid))
    cells = _read_cells(folder, records)
    paragraphs = leading_comment(text)
    return Source(
        path=run_dir,
        name=grid["name"] if isinstance(grid.get("name"), str) else run_dir.resolve().name,
        question=paragraphs[0] if paragraphs else "",
        about=paragraphs[1:],
        notes=tuple(_grid_notes(grid, len(cells))),
        environment=read_json(Environment, folder.environment) if folder.environment.is_file() else None,
        cells=cells,
        records=records,
    )


def leading_comment(text: str) -> tuple[str, ...]:
    """The paragraphs of the comment at the top of a grid file, without `#`; lines of one paragraph are joined."""
    paragraphs: list[list[str]] = [[]]
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.lstrip("#").strip()
        if words:
            paragraphs[-1].append(words)
        elif paragraphs[-1]:
            paragraphs.append([])
    return tuple(" ".join(lines) for lines in paragraphs if lines)


def _grid(text: str, file: str) -> dict[str, Any]:
    """The resolved grid. A report needs little of it, so a broken one costs no more than its notes."""
    root = parse(text, file, Problems())
    content = root.plain if root is not None else None
    return content if isinstance(content, dict) else {}


def _grid_notes(grid: Mapping[str, Any], cells: int) -> list[str]:
    notes = []
    if isinstance(grid.get("limit"), int):
        notes.append(f"Only the first {grid['limit']:,} questions of each task were asked (limit of the grid).")
    rows, seeds = grid.get("cells"), grid.get("seeds")
    planned = len(rows) * len(seeds) if isinstance(rows, list) and isinstance(seeds, list) and "grid" not in grid else 0
    if planned > cells:
        notes.append(f"The grid has {planned} cells; {planned - cells} of them have not started yet.")
    return notes


def _read_cells(folder: RunFolder, records: pd.DataFrame) -> dict[str, CellRecord]:
    """Cells in the order of the records, then those without records, by their folder's name."""
    cells = {columns.cell_id: CellRecord(**plain(columns)) for columns in cells_of(records, str(folder.records))}
    for one in folder.cells():
        if one.about.is_file():
            record = CellRecord.read(one.about)
            # What the records say about a cell is what its scores were made with.
            answered = cells.get(record.cell_id)
            columns = plain(answered) if answered is not None else {}
            cells[record.cell_id] = dataclasses.replace(record, **columns)
    return cells
