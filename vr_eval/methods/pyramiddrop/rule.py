"""PyramidDrop (arXiv 2410.17247): fewer image tokens from stage to stage of the decoder.

In front of a layer its own queries and keys say which image tokens the end of the prompt would attend to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vr_eval.layers.rows import Rows

RATIOS = (0.5, 0.25, 0.125)
"""What stays of the first count behind layers 8, 16 and 24 of 32 (paper, official code)."""


def stage_counts(total: int, ratios: Sequence[float] = RATIOS) -> tuple[int, ...]:
    """How many of the `total` image tokens at the decoder's input are left from each stage on.

    Rounded down (official code), but at least 1 (ours).

    Raises:
        ValueError: there is no token, or the ratios are not in (0, 1] or grow from one stage to the next.
    """
    if total < 1:
        raise ValueError(f"{total} image tokens; at least 1 is needed")
    if any(not 0 < ratio <= 1 for ratio in ratios) or list(ratios) != sorted(ratios, reverse=True):
        raise ValueError(f"ratios {tuple(ratios)}; they must be above 0, at most 1, and none above the one before it")
    return tuple(max(1, int(ratio * total)) for ratio in ratios)


def asking_rows(supervised: Tensor) -> Tensor:
    """The rows whose queries rank the image: those right in front of an answer, else the last one (official code).

    Args:
        supervised: ``(S,)`` bool, the tokens of answers in training; all False at inference.

    Returns:
        ``(Q,)`` int64, ascending.

    Raises:
        ValueError: there is no token.
    """
    if not len(supervised):
        raise ValueError("a sample of 0 tokens has no row that could ask")
    starts = (supervised[1:] & ~supervised[:-1]).nonzero().flatten()
    return starts if len(starts) else starts.new_tensor([len(supervised) - 1])


def received(queries: Tensor, keys: Tensor, rows: Tensor, scaling: float | None = None) -> Tensor:
    """The attention that every token receives from the asking rows: mean over heads and rows of the causal softmax.

    Args:
        queries: ``(heads, Q, d)``, normed, projected and rotated, of the asking rows alone.
        keys: ``(groups, S, d)`` of the whole sample, likewise; head h reads group h // (heads / groups). The official
            code knows as many groups as heads only; others are ours.
        rows: ``(Q,)`` int64, the places of the queries in the sample; a row sees itself and what precedes it.
        scaling: of the scores; None: 1 / sqrt(d).

    Returns:
        ``(S,)``, in float32 or float64.

    Raises:
        ValueError: the heads do not divide into the groups, no row asks, or a row is not in the sample.
    """
    (heads, asking, size), (groups, length, _) = queries.shape, keys.shape
    if not groups or heads % groups:
        raise ValueError(f"{heads} heads do not divide into {groups} groups of keys")
    if not asking or len(rows) != asking or bool(((rows < 0) | (rows >= length)).any()):
        raise ValueError(f"{asking} queries at rows {rows.tolist()}; at least 1, each from 0 to {length - 1}")
    precise = torch.promote_types(torch.promote_types(queries.dtype, keys.dtype), torch.float32)
    grouped = queries.to(precise).reshape(groups, heads // groups, asking, size)
    scores = grouped @ keys.to(precise).transpose(1, 2)[:, None]  # (groups, heads / groups, Q, S)
    scores = scores * (size**-0.5 if scaling is None else scaling)
    ahead = torch.arange(length, device=rows.device) > rows[:, None]
    return scores.masked_fill(ahead, -torch.inf).softmax(dim=-1).mean(dim=(0, 1, 2))


def keep(scores: Tensor, count: int) -> Rows:
    """The `count` image tokens of one sample with the highest scores ``(N,)``, ascending; ties go to the earlier.

    Raises:
        ValueError: `count` is not from 1 to N.
    """
    if not 1 <= count <= len(scores):
        raise ValueError(f"{count} tokens to keep; allowed: 1 to {len(scores)}")
    return Rows.of(scores.sort(descending=True, stable=True).indices[:count].sort().values)
