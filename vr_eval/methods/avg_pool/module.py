"""Average pooling before the MLP: the compression of Vision Remember's figure 1b (arXiv 2506.03928)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vr_eval.layers.mlp import gelu_mlp
from vr_eval.layers.windows import from_grid, to_grid
from vr_eval.methods.avg_pool.spec import AvgPoolOptions
from vr_eval.methods.base import Projector, Shapes, VisionFeatures


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
