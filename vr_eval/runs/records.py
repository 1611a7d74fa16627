"""The records of a run, collected from the folders of its cells."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vr_eval.config.grid import Grid
from vr_eval.records.columns import COLUMNS, CellColumns
from vr_eval.records.folder import RunFolder
from vr_eval.records.frame import read_samples, with_cell, write_frame


def collect(run_dir: Path, grid: Grid) -> pd.DataFrame:
    """The records of the grid's evaluated cells, in its order.

    Cells of an older version of the grid may lie in the same directory; they are kept there and left out here.

    Raises:
        InputError: The samples of a cell cannot be read.
    """
    # Which suite a task stands under and which cell is the baseline are the grid's, not the result's.
    suites = {task: suite for suite, task in grid.tasks}
    cells = [CellColumns.of(cell, grid) for cell in grid.cells]
    folders = {cell: RunFolder(run_dir).cell(cell.cell_id) for cell in cells}
    frames = [
        with_cell(read_samples(folder.samples), cell, suites) for cell, folder in folders.items() if folder.evaluated
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))


def write_records(run_dir: Path, grid: Grid) -> pd.DataFrame:
    """Write `records.parquet` of the run, if any cell is evaluated; returns the records."""
    records = collect(run_dir, grid)
    if len(records):
        write_frame(records, RunFolder(run_dir).records)
    return records
