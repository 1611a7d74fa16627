"""PyramidDrop in a model: fewer vision tokens from stage to stage of the decoder, image by image."""

from __future__ import annotations

from vr_eval.layers.rows import Rows
from vr_eval.methods.base import Shapes
from vr_eval.methods.pyramiddrop.rule import keep, stage_counts
from vr_eval.methods.pyramiddrop.spec import PyramidDropOptions
from vr_eval.methods.reduction import Reduction, Sample, by_image


class PyramidDrop(Reduction):
    """Keeps the tokens of every image that the prompt's last row would attend to most in the layer that follows."""

    asks = "own"

    def __init__(self, shapes: Shapes, options: PyramidDropOptions) -> None:
        super().__init__()
        options = options.resolve(shapes)
        self.places, self.ratios, self.positions = options.places(), options.ratios, options.positions

    def choose(self, step: int, sample: Sample) -> Rows:
        if sample.asked is None:
            raise ValueError("PyramidDrop ranks by attention, and was handed none")
        received = sample.asked.received(sample.last())[sample.vision]
        # Shares are of what each image had at first.
        return by_image(
            sample, lambda at: keep(received[at], stage_counts(int(sample.first[at[0]]), self.ratios)[step])
        )
