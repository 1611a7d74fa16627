"""Grids and runs for Python code; the command line calls these functions too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vr_eval.config.grid import Grid, load_grid
from vr_eval.errors import VrEvalError
from vr_eval.records.folder import RunFolder
from vr_eval.runs.executors.options import WorkerOptions
from vr_eval.tracking import tracking

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_grid", "read_records", "report", "run"]


class CellsFailedError(VrEvalError):
    """Some cells of a run failed; the others have their results."""

    def __init__(self, run_dir: Path, exit_code: int) -> None:
        super().__init__(f"cells failed; the others have their results in {run_dir}")
        self.run_dir, self.exit_code = run_dir, exit_code

    def __reduce__(self) -> tuple[type[CellsFailedError], tuple[Path, int]]:
        return type(self), (self.run_dir, self.exit_code)


def run(
    grid: Grid | str | Path,
    out: str | Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    track: str = "none",
    workers: WorkerOptions | int = 1,
    features: str | Path | None = None,
) -> Path:
    """Train what is missing, evaluate every cell, write records and report; returns the run directory.

    Args:
        grid: From ``load_grid``, or a grid file, or the name of an ablation.
        out: The run directory; default ``runs/NAME``.
        device: ``auto`` takes a GPU if there is one.
        batch_size: Questions answered at once; default the grid's.
        track: Who keeps curves and results, one of ``tracking.TOOLS``; they stand beside the run directory.
        workers: How many processes on this machine do it, or ``WorkerOptions`` for Ray and Slurm. Several need what
            multiprocessing needs of a script: ``if __name__ == "__main__":`` around its call.
        features: Folder that keeps vision features for all workers and later runs, ``off`` for none; default
            ``vision`` below ``VR_EVAL_HOME``.

    Raises:
        InputError: the grid, the run directory, a cache, the device or the tracker cannot be used.
        CellsFailedError: cells failed; the same call tries them again.
    """
    loaded = grid if isinstance(grid, Grid) else load_grid(grid)
    from vr_eval.runs.execute import run_grid

    run_dir = Path(out) if out is not None else loaded.run_dir
    tracked = tracking(track, run_dir, loaded.name)
    options = WorkerOptions(workers=workers) if isinstance(workers, int) else workers
    code = run_grid(
        loaded,
        out=run_dir,
        device=device,
        batch_size=batch_size,
        track=tracked,
        options=options,
        features=features,
    )
    tracked.keep_results(run_dir)
    if code:
        raise CellsFailedError(run_dir, code)
    return run_dir


def read_records(run_dir: str | Path) -> pd.DataFrame:
    """The records of a run: one row per cell and question, checked, as the report reads them.

    Raises:
        InputError: no run directory, or a broken one.
    """
    from vr_eval.records import frame

    return frame.read_records(Path(run_dir))


def report(run_dir: str | Path) -> Path:
    """Build the report of a run, or of probes, again from its records; returns the page.

    Raises:
        InputError: no run directory, or a broken one.
    """
    folder = Path(run_dir)
    if RunFolder(folder).probe.is_file():
        from vr_eval.probes.report import build
    else:
        from vr_eval.reporting import build

    return build(folder)
