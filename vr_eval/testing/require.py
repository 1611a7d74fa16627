"""What every check is written in."""

from __future__ import annotations

from torch import Tensor


def require(holds: bool | Tensor, message: str) -> None:
    """An `assert` that `python -O` keeps."""
    if not holds:
        raise AssertionError(message)
