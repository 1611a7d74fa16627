"""Training of missing checkpoints, each by one process at a time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint, trained_checkpoint
from vr_eval.processes import ALONE, Spread, is_first_process, processes
from vr_eval.runs.lease import Holder, leased, waited_for
from vr_eval.tracking import NOT_TRACKED, Tracking


def train_missing(
    cell: Cell,
    say: Callable[[str], None],
    device: str = "auto",
    spread: Spread = ALONE,
    track: Tracking = NOT_TRACKED,
) -> Path:
    """Train the checkpoint of `cell`, unless another process just did; returns its folder.

    Raises:
        VrEvalError: it cannot be trained, or processes that train together meet others that do.
    """
    folder = trained_checkpoint(cell)
    if not is_first_process():  # the first one of those that train together holds the lease for all
        _train(cell, folder, device, spread, track)
        return folder
    leases, task = folder.parent / ".leases", f"trains {cell.label}"

    def waiting(holder: Holder) -> None:
        say(f"{cell.label}: waiting for the same checkpoint: {holder}")

    # Of several processes, the others would already be training while the first one waits.
    together = processes() > 1
    with leased(leases, folder.name, task) if together else waited_for(leases, folder.name, waiting, task):
        found = find_checkpoint(cell)
        if found is not None:
            return found
        if cell.trained:
            say(f"{cell.label}: training {cell.recipe.steps} steps")
        _train(cell, folder, device, spread, track)
        if cell.pretrained:
            from vr_eval.checksums import read_manifest

            for name, commit in read_manifest(folder)["sources"].items():
                say(f"{name} is commit {commit[:12]} now, and stays it here: {folder}")
    return folder


def _train(cell: Cell, folder: Path, device: str, spread: Spread, track: Tracking) -> None:
    from vr_eval.models.hub import quiet_loading
    from vr_eval.training.cell import train_cell

    quiet_loading()
    with contextlib.redirect_stdout(sys.stderr):  # the trainer prints its log
        train_cell(cell, folder, device, spread, track)
