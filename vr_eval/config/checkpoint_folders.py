"""Where checkpoints are found: those that travel with the project, then those trained on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, TypeAlias

from vr_eval.config.cell import Cell
from vr_eval.config.identity import checkpoint_id
from vr_eval.paths import PACKAGE, has_home, home

Came: TypeAlias = Literal["random", "shipped", "trained"]
"""Where weights came from: drawn from a seed, travelling with the project, or trained or fetched on a machine."""

ID = re.compile(r"[0-9a-f]{16}")
"""What the id of a checkpoint looks like."""


def shipped_checkpoint(cell: Cell) -> Path:
    """Folder in which the checkpoint of ``cell`` would travel with the project."""
    return PACKAGE / "micro" / "checkpoints" / checkpoint_id(cell)


def trained_checkpoint(cell: Cell) -> Path:
    """Folder in which the checkpoint of ``cell`` is kept when it is trained on this machine."""
    return home() / "checkpoints" / checkpoint_id(cell)


def find_checkpoint(cell: Cell) -> Path | None:
    """The folder of a complete checkpoint of ``cell``, or ``None``: it has to be trained.

    ``checkpoint.json`` is written last, so a folder without it is an unfinished one and is passed over.
    """
    return checkpoint_named(checkpoint_id(cell))


def checkpoint_named(name: str) -> Path | None:
    """The folder of a complete checkpoint with this id, or ``None`` where there is none or this is no id."""
    if not ID.fullmatch(name):
        return None
    homes = (PACKAGE / "micro", *((home(),) if has_home() else ()))
    return next((folder for one in homes if _complete(folder := one / "checkpoints" / name)), None)


def origin_of(checkpoint: Path | None) -> Came:
    """Where the weights of a cell come from, by the folder of its checkpoint; ``None``: they are drawn."""
    if checkpoint is None:
        return "random"
    return "shipped" if checkpoint.is_relative_to(PACKAGE) else "trained"


def _complete(folder: Path) -> bool:
    try:
        return (folder / "checkpoint.json").is_file()
    except OSError:  # a folder that this user may not enter
        return False
