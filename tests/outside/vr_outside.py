"""A projector of a stranger: the largest value of each s x s cell, then a linear layer. All that it takes is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from vr_eval.catalog.fields import described
from vr_eval.layers.windows import from_grid, to_grid
from vr_eval.methods.base import Projector, Shapes, VisionFeatures
from vr_eval.methods.options import ProjectorOptions
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class MaxPoolOptions(ProjectorOptions):
    """The largest value of each s x s cell of the features, then a linear layer."""

    any_grid: ClassVar[bool] = True

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


SPEC = MethodSpec(
    name="max_pool",
    options=MaxPoolOptions,
    version=1,
    summary="the largest value of s x s cells, then a linear layer",
    source="an example",
    module=__name__,
    cls="MaxPool",
)
