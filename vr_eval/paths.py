"""Where things are: the user's folder for trained checkpoints, and the files that travel with the project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

PACKAGE = Path(__file__).resolve().parent

Resource = Literal["tasks", "ablations", "reports"]


def home() -> Path:
    """Folder for what is built on this machine: ``VR_EVAL_HOME``, else ``~/.cache/vr-eval``. It may not exist yet."""
    configured = os.environ.get("VR_EVAL_HOME")
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".cache" / "vr-eval"


def resource(name: Resource) -> Path:
    """Folder ``name`` at the top of the checkout, or its copy in an installed wheel (``vr_eval/resources/name``)."""
    packaged = PACKAGE / "resources" / name
    # The wheel's copy comes first: beside an installed package, `tasks/` could be anyone's.
    return packaged if packaged.is_dir() else PACKAGE.parent / name
