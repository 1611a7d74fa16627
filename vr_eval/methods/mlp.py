"""The uncompressed baseline and the two projectors that only regroup patches before the same two-layer MLP.

Sources: mlp, LLaVA-1.5 (arXiv 2310.03744), `mlp2x_gelu`; avg_pool, the compression of Vision Remember's figure 1b;
pixel_shuffle, InternVL 1.5 (arXiv 2404.16821).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vr_eval.layers.windows import from_grid, to_grid
from vr_eval.methods.base import Projector, Shapes, VisionFeatures
from vr_eval.methods.options import AvgPoolOptions, MLPOptions, PixelShuffleOptions


def gelu_mlp(width_in: int, width_out: int, depth: int) -> nn.Sequential:
    """Linear, then `depth - 1` times GELU and Linear (LLaVA-1.5's `mlp{depth}x_gelu`)."""
    layers: list[nn.Module] = [nn.Linear(width_in, width_out)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(width_out, width_out)]
    return nn.Sequential(*layers)


class MLP(Projector):
    """Every patch becomes a vision token: ``(M, G*G, D) -> (M, G*G, H)``."""

    def __init__(self, shapes: Shapes, options: MLPOptions) -> None:
        super().__init__()
        self.levels = (shapes.select_layer,)
        self.mlp = gelu_mlp(shapes.tower_width, shapes.decoder_width, options.depth)

    def forward(self, features: VisionFeatures) -> Tensor:
        return self.mlp(features.level(self.levels[0]))

    def patch_mlp(self) -> nn.Module:
        return self.mlp


class AvgPool(Projector):
    """The mean over ``s x s`` patches, then the MLP: ``(M, G*G, D) -> (M, g*g, H)``."""

    def __init__(self, shapes: Shapes, options: AvgPoolOptions) -> None:
        super().__init__()
        self.levels = (shapes.select_layer,)
        self.stride = shapes.stride
        self.mlp = gelu_mlp(shapes.tower_width, shapes.decoder_width, options.depth)

    def forward(self, features: VisionFeatures) -> Tensor:
        pooled = F.avg_pool2d(to_grid(features.level(self.levels[0])), self.stride)
        return self.mlp(from_grid(pooled))

    def patch_mlp(self) -> nn.Module:
        return self.mlp


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
