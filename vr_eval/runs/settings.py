"""How the cells of a run directory are worked on, as its driver leaves it for workers: `.work/settings.json`. Light."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vr_eval.config.grid import Grid, load_grid
from vr_eval.errors import InputError, Problem
from vr_eval.processes import ALONE, Spread
from vr_eval.records.folder import RunFolder
from vr_eval.records.json_file import read_json, write_json
from vr_eval.tracking import Tracking


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know beside the grid.

    Attributes:
        run_id: Names the call of the command.
        folder: Working directory of the driver, from which relative paths count.
        device: As ``--device`` takes it.
        batch_size: Questions answered at once.
        loading: How weights are loaded, as ``load_grid`` takes it.
        shared: Whether several workers may share a machine.
        track: Who draws the curves of what is trained (`Tracking`).
        spread: What a training needs in memory (`Spread`).
        features: Where vision features are kept, as ``--features`` takes it; None for the default.
        in_ranges: Whether all cells are asked a range of questions before any is asked the next (`Session`).
    """

    run_id: str
    folder: str
    device: str
    batch_size: int
    loading: Mapping[str, Any]
    track: Mapping[str, Any]
    spread: Mapping[str, Any]
    shared: bool = False
    features: str | None = None
    in_ranges: bool = False

    @classmethod
    def of(
        cls, grid: Grid, run_id: str, device: str, batch_size: int, track: Tracking, spread: Spread = ALONE
    ) -> Settings:
        """Those of a command that one process does by itself."""
        loading = {name: value for name, value in dataclasses.asdict(grid.loading).items() if value is not None}
        tracked = {**dataclasses.asdict(track), "folder": str(track.folder)}
        given = (loading, tracked, dataclasses.asdict(spread))
        return cls(run_id, str(Path.cwd()), device, batch_size, *given)

    def sharing(self) -> Settings:
        """The same where several workers may share a machine."""
        return dataclasses.replace(self, shared=True)

    def keeping(self, features: str | Path | None) -> Settings:
        """The same with vision features where ``--features`` says."""
        return dataclasses.replace(self, features=None if features is None else str(features))

    @property
    def tracking(self) -> Tracking:
        """Who draws the curves of what is trained."""
        return Tracking(**{**self.track, "folder": Path(self.track["folder"])})

    def spread_of(self, batch: int, halved: int) -> Spread:
        """How a training with this `batch` is spread after memory ran out `halved` times."""
        spread = Spread(**self.spread)
        if not halved:
            return spread
        return dataclasses.replace(spread, device_batch=max(1, (spread.device_batch or batch) >> halved))

    def write(self, run: RunFolder) -> None:
        """Raises InputError where it cannot be written."""
        write_json(self, run.settings)

    @classmethod
    def read(cls, run: RunFolder) -> Settings:
        """Raises InputError where no driver was here."""
        if not run.settings.is_file():
            hint = "`vr-eval run FILE --out DIR` makes one."
            raise InputError(Problem("this is no run directory that a worker could work in", str(run.path), hint=hint))
        return read_json(cls, run.settings)

    def grid(self, run: RunFolder) -> Grid:
        """The grid of the run directory, as its driver had it."""
        return load_grid(run.grid, batch_size=self.batch_size, loading=self.loading)
