"""FastV (arXiv 2403.06764): the vision tokens that get the most attention in layer K-1 go on from layer K.

Training-free: it runs on the checkpoint of the same model without pruning.
"""

from __future__ import annotations

from vr_eval.layers.rows import Rows
from vr_eval.methods.base import Shapes
from vr_eval.methods.fastv.spec import FastVOptions
from vr_eval.methods.keeping import keep_highest, kept_tokens
from vr_eval.methods.reduction import Reduction, Sample


class FastV(Reduction):
    """Keeps the vision tokens that layer K-1 attends to most, mean over heads; asked by the last row or by all rows."""

    asks = "previous"

    def __init__(self, shapes: Shapes, options: FastVOptions) -> None:
        super().__init__()
        self.places, self.mode, self.keep_ratio = (options.layer,), options.mode, options.keep_ratio
        self.query = options.query

    def choose(self, step: int, sample: Sample) -> Rows:
        if sample.asked is None:
            raise ValueError("FastV ranks by attention, and was handed none")
        received = sample.asked.received(sample.last() if self.query == "last" else sample.all())
        return keep_highest(received[sample.vision], kept_tokens(len(sample.image), self.keep_ratio))
