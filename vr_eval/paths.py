"""Where things are: the user's folder for trained checkpoints, and the files that travel with the project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from vr_eval.errors import InputError, Problem

PACKAGE = Path(__file__).resolve().parent

Resource = Literal["tasks", "ablations", "reports"]


def home() -> Path:
    """Folder for what is built on this machine: ``VR_EVAL_HOME``, else ``~/.cache/vr-eval``. It may not exist yet.

    Raises:
        InputError: Nobody knows the home folder.
    """
    configured = os.environ.get("VR_EVAL_HOME")
    try:
        return Path(configured).expanduser().absolute() if configured else Path.home() / ".cache" / "vr-eval"
    except RuntimeError as error:
        message = "nobody knows where to keep what is built here: this user has no home folder"
        if configured:
            message = f"it names the home folder of a user that is not there: {configured}"
        hint = "Set VR_EVAL_HOME (or HOME) to a folder that you can write to."
        raise InputError(Problem(message, file="VR_EVAL_HOME", hint=hint)) from error


def has_home() -> bool:
    """Whether ``home()`` is known: a user without a home folder has built nothing yet."""
    return bool(os.environ.get("VR_EVAL_HOME")) or os.path.expanduser("~") != "~"  # noqa: PTH111


def resource(name: Resource) -> Path:
    """Folder ``name`` at the top of the checkout, or its copy in an installed wheel (``vr_eval/resources/name``)."""
    packaged = PACKAGE / "resources" / name
    # The wheel's copy comes first: beside an installed package, `tasks/` could be anyone's.
    return packaged if packaged.is_dir() else PACKAGE.parent / name
