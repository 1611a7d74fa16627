"""DART in a model: in front of one decoder layer, image by image."""

from __future__ import annotations

from vr_eval.layers.rows import Rows
from vr_eval.methods.base import Shapes
from vr_eval.methods.dart.rule import keep
from vr_eval.methods.dart.spec import DartOptions
from vr_eval.methods.keeping import kept_tokens
from vr_eval.methods.reduction import Reduction, Sample, by_image


class Dart(Reduction):
    """Keeps a few pivots and the tokens that are least like them."""

    asks = "own"

    def __init__(self, shapes: Shapes, options: DartOptions) -> None:
        super().__init__()
        self.places, self.keep_ratio, self.pivots = (options.layer,), options.keep_ratio, options.pivots

    def choose(self, step: int, sample: Sample) -> Rows:
        if sample.asked is None:
            raise ValueError("DART ranks by keys, and was handed none")
        tokens, keys = sample.tokens, sample.asked.key[:, sample.vision].transpose(0, 1).flatten(1)
        return by_image(
            sample, lambda at: keep(tokens[at], keys[at], kept_tokens(len(at), self.keep_ratio), self.pivots)
        )
