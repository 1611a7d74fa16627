"""Random choice of vision tokens: the control for FastV, and training-free as it is."""

from __future__ import annotations

import zlib

import torch

from vr_eval.layers.rows import Rows
from vr_eval.methods.base import Shapes
from vr_eval.methods.keeping import keep_highest, kept_tokens
from vr_eval.methods.random.spec import RandomOptions
from vr_eval.methods.reduction import Reduction, Sample


class RandomPruning(Reduction):
    """Keeps as many vision tokens as FastV would, drawn at random per sample from its own content and a seed."""

    def __init__(self, shapes: Shapes, options: RandomOptions) -> None:
        super().__init__()
        self.places, self.keep_ratio, self.seed = (options.layer,), options.keep_ratio, options.seed

    def choose(self, step: int, sample: Sample) -> Rows:
        # A function of the sample alone: the same in any batch, and at every step of a run without a cache.
        content = zlib.crc32(sample.ids.cpu().numpy().tobytes())
        generator = torch.Generator().manual_seed(self.seed * 2**32 + content)
        scores = torch.rand(len(sample.image), generator=generator).to(sample.hidden.device)
        return keep_highest(scores, kept_tokens(len(sample.image), self.keep_ratio))
