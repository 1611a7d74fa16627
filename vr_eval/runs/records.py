"""Records: one row per cell and question, the one table that reports and your own pandas code start from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vr_eval.config.cell import Cell
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id, checkpoint_id
from vr_eval.files import atomic_target
from vr_eval.runs.folder import RECORDS, cell_folder

CELL_COLUMNS = (
    *("cell_id", "checkpoint_id", "label", "backbone", "projector", "ratio", "refusion", "pruning", "image", "options"),
    *("seed", "tokens", "is_baseline", "weights"),
)
SAMPLE_COLUMNS = (
    *("suite", "task", "metric", "doc_id", "cluster", "kind", "question", "answer", "target", "score", "failure"),
    *("latency_ms", "new_tokens", "run_id"),
)
COLUMNS = (*CELL_COLUMNS, *SAMPLE_COLUMNS)


def cell_columns(cell: Cell, grid: Grid) -> dict[str, Any]:
    """What every record of `cell` says about it."""
    return {
        "cell_id": cell_id(cell, grid),
        "checkpoint_id": checkpoint_id(cell),
        "label": cell.label,
        "backbone": cell.backbone,
        "projector": cell.projector,
        "ratio": cell.ratio,
        "refusion": cell.refusion,
        "pruning": cell.pruning,
        "image": cell.image,
        "options": json.dumps({method: dict(options) for method, options in cell.options.items()}),
        "seed": cell.seed,
        "tokens": cell.tokens,
        "is_baseline": grid.is_baseline(cell),
        "weights": "random" if cell.random_weights else "real",
    }


def collect(run_dir: Path, grid: Grid) -> pd.DataFrame:
    """The records of the grid's evaluated cells, in its order.

    Cells of an older version of the grid may lie in the same directory; they are kept there and left out here.
    """
    suites = {task: suite for suite, task in grid.tasks}
    frames = []
    for cell in grid.cells:
        columns = cell_columns(cell, grid)
        folder = cell_folder(run_dir, columns["cell_id"])
        if not folder.evaluated:
            continue
        frame = pd.read_parquet(folder.samples)
        # Which suite a task stands under and which cell is the baseline are the grid's, not the result's.
        frame["suite"] = frame["task"].map(suites)
        frames.append(frame.assign(**columns)[list(COLUMNS)])
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write `frame` as parquet in one step. Raises InputError where the disk is full."""
    with atomic_target(path) as temporary:
        frame.to_parquet(temporary, index=False)


def write_records(run_dir: Path, grid: Grid) -> pd.DataFrame:
    """Write `records.parquet` of the run, if any cell is evaluated; returns the records."""
    records = collect(run_dir, grid)
    if len(records):
        write_frame(records, run_dir / RECORDS)
    return records


def sample_frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The samples of one cell, without the columns that `collect` adds."""
    columns = [name for name in SAMPLE_COLUMNS if name != "suite"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"doc_id": "int64", "score": "float64", "latency_ms": "float64", "new_tokens": "int64"})
