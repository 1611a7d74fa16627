"""The uncompressed baseline: the two-layer MLP of LLaVA-1.5 (arXiv 2310.03744), `mlp2x_gelu`."""

from __future__ import annotations

from torch import Tensor, nn

from vr_eval.layers.mlp import gelu_mlp
from vr_eval.methods.base import Projector, Shapes, VisionFeatures
from vr_eval.methods.mlp.spec import MLPOptions


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
