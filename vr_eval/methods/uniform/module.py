"""Every n-th vision token: the control that any choice has to beat."""

from __future__ import annotations

import torch

from vr_eval.layers.rows import Rows
from vr_eval.methods.base import Shapes
from vr_eval.methods.keeping import kept_tokens
from vr_eval.methods.reduction import Reduction, Sample, by_image
from vr_eval.methods.uniform.spec import UniformOptions


class Uniform(Reduction):
    """Keeps tokens at even distances in the reading order of every image."""

    def __init__(self, shapes: Shapes, options: UniformOptions) -> None:
        super().__init__()
        self.places, self.positions, self.keep_ratio = (options.layer,), options.positions, options.keep_ratio

    def choose(self, step: int, sample: Sample) -> Rows:
        def spread(at: torch.Tensor) -> Rows:
            count = kept_tokens(len(at), self.keep_ratio)
            numbers = torch.arange(count, device=at.device)
            return Rows.of((2 * numbers + 1) * len(at) // (2 * count))  # the middle of each of `count` equal parts

        return by_image(sample, spread)
