"""Training of missing checkpoints, each by one process at a time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from vr_eval.config.cell import Cell
from vr_eval.runs.lock import waited_for
from vr_eval.runs.store import find_checkpoint, trained_checkpoint


def train_missing(cell: Cell, say: Callable[[str], None], device: str = "auto") -> Path:
    """Train the checkpoint of `cell`, unless another process just did; returns its folder.

    Raises:
        VrEvalError: it cannot be trained.
    """
    folder = trained_checkpoint(cell)
    lock = folder.with_name(f"{folder.name}.lock")
    with waited_for(lock, lambda pid: say(f"{cell.label}: process {pid} trains this checkpoint; waiting for it")):
        found = find_checkpoint(cell)
        if found is not None:
            return found
        from vr_eval.training.cell import train_cell

        if not cell.pretrained:
            say(f"{cell.label}: training {cell.recipe.steps} steps")
        with contextlib.redirect_stdout(sys.stderr):  # the trainer prints its log
            train_cell(cell, folder, device)
    return folder
