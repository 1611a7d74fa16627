"""LDPv2, the projector of MobileVLM V2 (arXiv 2402.03766): an MLP, pooling, and a convolution that adds positions.

Computes what the official code computes, at any ratio.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vr_eval.layers.mlp import gelu_mlp
from vr_eval.layers.windows import from_grid, to_grid
from vr_eval.methods.base import Projector, Shapes, VisionFeatures
from vr_eval.methods.ldpv2.spec import LDPv2Options


class LDPv2(Projector):
    """``(M, G*G, D) -> (M, g*g, H)``: MLP on every patch, mean over s x s cells, ``x + depthwise 3 x 3 conv(x)``."""

    def __init__(self, shapes: Shapes, options: LDPv2Options) -> None:
        super().__init__()
        self.levels = (shapes.select_layer,)
        self.side = shapes.grid // shapes.stride
        width = shapes.decoder_width
        self.mlp = gelu_mlp(shapes.tower_width, width, 2)
        self.peg = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, features: VisionFeatures) -> Tensor:
        grid = to_grid(self.mlp(features.level(self.levels[0])))
        pooled = F.adaptive_avg_pool2d(grid, self.side)
        return from_grid(pooled + self.peg(pooled))

    def patch_mlp(self) -> nn.Module:
        return self.mlp
