"""How many vision tokens a share of them is, and which ones: the highest scored."""

from __future__ import annotations

from torch import Tensor

from vr_eval.layers.rows import Rows


def kept_tokens(total: int, keep_ratio: float) -> int:
    """How many of `total` vision tokens of a sample stay: rounded half up, at least 1 of any (ours)."""
    return min(total, max(1, int(total * keep_ratio + 0.5))) if total else 0


def keep_highest(scores: Tensor, count: int) -> Rows:
    """The `count` highest of ``scores`` ``(N,)``, in the order of their places; ties go to the earlier place."""
    return Rows.of(scores.argsort(descending=True, stable=True)[:count].sort().values)
