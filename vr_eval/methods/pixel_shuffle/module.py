"""Cells of patches onto the channels, then the MLP: InternVL 1.5 (arXiv 2404.16821)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vr_eval.layers.mlp import gelu_mlp
from vr_eval.layers.windows import from_grid, to_grid
from vr_eval.methods.base import Projector, Shapes, VisionFeatures
from vr_eval.methods.pixel_shuffle.spec import PixelShuffleOptions


class PixelShuffle(Projector):
    """``s x s`` patches side by side on channels, LayerNorm, then the MLP: ``(M, G*G, D) -> (M, g*g, H)``."""

    def __init__(self, shapes: Shapes, options: PixelShuffleOptions) -> None:
        super().__init__()
        self.levels = (shapes.select_layer,)
        self.stride = shapes.stride
        width = shapes.tower_width * shapes.stride**2
        self.norm = nn.LayerNorm(width)
        self.mlp = gelu_mlp(width, shapes.decoder_width, options.depth)

    def forward(self, features: VisionFeatures) -> Tensor:
        folded = F.pixel_unshuffle(to_grid(features.level(self.levels[0])), self.stride)  # (M, D*s*s, g, g)
        return self.mlp(self.norm(from_grid(folded)))
