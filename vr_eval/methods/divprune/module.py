"""DivPrune in a model: in front of the decoder's first layer, image by image."""

from __future__ import annotations

from vr_eval.layers.rows import Rows
from vr_eval.methods.base import Shapes
from vr_eval.methods.divprune.rule import keep
from vr_eval.methods.divprune.spec import DivPruneOptions
from vr_eval.methods.keeping import kept_tokens
from vr_eval.methods.reduction import Reduction, Sample, by_image


class DivPrune(Reduction):
    """Keeps projected tokens of every image, its tiles and newlines together, that are far from each other."""

    places = (0,)

    def __init__(self, shapes: Shapes, options: DivPruneOptions) -> None:
        super().__init__()
        self.keep_ratio, self.positions = options.keep_ratio, options.positions

    def choose(self, step: int, sample: Sample) -> Rows:
        tokens = sample.tokens
        return by_image(sample, lambda at: keep(tokens[at], kept_tokens(len(at), self.keep_ratio)))
