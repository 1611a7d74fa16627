"""How many vision tokens a share of them is, and which ones: the highest scored."""

from __future__ import annotations

import torch
from torch import Tensor


def kept_tokens(total: int, keep_ratio: float) -> int:
    """How many of `total` vision tokens of a sample stay: rounded half up, at least 1 of any (ours)."""
    return min(total, max(1, int(total * keep_ratio + 0.5))) if total else 0


def keep_highest(scores: Tensor, vision: Tensor, keep_ratio: float) -> Tensor:
    """The highest scored vision positions of every row; ties go to the earlier position.

    Args:
        scores: ``(B, S)``; read at vision positions only.
        vision: ``(B, S)`` bool.

    Returns:
        ``(B, S)`` bool, True at the vision positions that stay.
    """
    keep = torch.zeros_like(vision)
    for row, (score, places) in enumerate(zip(scores, vision, strict=True)):
        at = places.nonzero().flatten()
        order = score[at].argsort(descending=True, stable=True)
        keep[row, at[order[: kept_tokens(len(at), keep_ratio)]]] = True
    return keep
