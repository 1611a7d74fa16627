"""The precision that choices and sums are made in."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(given: Tensor) -> Tensor:
    """`given` in float32; in float64, where it is that already."""
    return given.to(torch.promote_types(given.dtype, torch.float32))
