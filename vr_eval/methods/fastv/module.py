"""FastV (arXiv 2403.06764): the vision tokens that get the most attention in layer K-1 go on from layer K.

Training-free: it runs on the checkpoint of the same model without pruning.
"""

from __future__ import annotations

from torch import Tensor

from vr_eval.methods.base import Pruning, PruningInput, Shapes
from vr_eval.methods.fastv.spec import FastVOptions
from vr_eval.methods.keeping import keep_highest


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
