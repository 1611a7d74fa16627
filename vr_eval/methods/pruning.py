"""Seam 3: which vision tokens go on from decoder layer K. FastV, and random choice as its control.

FastV (arXiv 2403.06764) ranks an image's tokens by the attention that they receive in layer K-1 and keeps the top ones.
Both are training-free: they run on the checkpoint of the same model without pruning.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from vr_eval.methods.base import Pruning, PruningInput, Shapes
from vr_eval.methods.options import FastVOptions, RandomOptions


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


class FastV(Pruning):
    """Keeps the vision tokens that layer K-1 attends to most, mean over heads; asked by the last row or by all rows."""

    def __init__(self, shapes: Shapes, options: FastVOptions) -> None:
        super().__init__()
        self.layer, self.mode, self.keep_ratio = options.layer, options.mode, options.keep_ratio
        self.query = options.query

    def select(self, given: PruningInput) -> Tensor:
        if given.attention is None:
            raise ValueError("FastV ranks by attention, and none was recorded")
        return keep_highest(given.attention, given.vision, self.keep_ratio)


class RandomPruning(Pruning):
    """Keeps as many vision tokens as FastV would, drawn at random per sample from its own content and a seed."""

    def __init__(self, shapes: Shapes, options: RandomOptions) -> None:
        super().__init__()
        self.layer, self.mode, self.keep_ratio = options.layer, "drop", options.keep_ratio
        self.seed = options.seed

    def select(self, given: PruningInput) -> Tensor:
        scores = torch.zeros(given.vision.shape)
        for row, (ids, prompt, vision) in enumerate(zip(given.input_ids, given.prompt, given.vision, strict=True)):
            # A function of the sample alone: the same in any batch, and at every step of a run without a cache.
            content = zlib.crc32(ids[prompt].cpu().numpy().tobytes())
            generator = torch.Generator().manual_seed(self.seed * 2**32 + content)
            scores[row, vision.cpu()] = torch.rand(int(vision.sum()), generator=generator)
        return keep_highest(scores.to(given.vision.device), given.vision, self.keep_ratio)
