"""A projector of a stranger: the largest value of each s x s cell, then a linear layer. All that it takes is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from vr_eval.catalog.fields import described
from vr_eval.layers.windows import from_grid, to_grid
from vr_eval.methods.base import Projector, Shapes, VisionFeatures
from vr_eval.methods.options import Options, Shape
from vr_eval.methods.spec import MethodSpec, square_ratios, square_tokens


@dataclass(frozen=True)
class MaxPoolOptions(Options):
    """The largest value of each s x s cell of the features, then a linear layer."""

    bias: bool = described(True, "whether the linear layer has a bias")


class MaxPool(Projector):
    """``(M, G*G, D) -> (M, g*g, H)``."""

    def __init__(self, shapes: Shapes, options: MaxPoolOptions) -> None:
        super().__init__()
        self.levels = (shapes.select_layer,)
        self.stride = shapes.stride
        self.linear = nn.Linear(shapes.tower_width, shapes.decoder_width, bias=options.bias)

    def forward(self, features: VisionFeatures) -> Tensor:
        return self.linear(from_grid(F.max_pool2d(to_grid(features.level(self.levels[0])), self.stride)))


def parameters(shape: Shape, ratio: int, options: Any) -> int:
    return (shape.tower_width + int(options.bias)) * shape.decoder_width


SPEC = MethodSpec(
    name="max_pool",
    seam="projector",
    options=MaxPoolOptions,
    version=1,
    summary="the largest value of s x s cells, then a linear layer",
    source="an example",
    module="vr_outside",
    cls="MaxPool",
    tokens=square_tokens,
    ratios=square_ratios,
    parameters=parameters,
    any_grid=True,
)
