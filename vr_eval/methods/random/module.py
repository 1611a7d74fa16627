"""Random choice of vision tokens: the control for FastV, and training-free as it is."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from vr_eval.methods.base import Pruning, PruningInput, Shapes
from vr_eval.methods.keeping import keep_highest
from vr_eval.methods.random.spec import RandomOptions


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
