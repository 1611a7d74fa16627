"""C-Abstractor of Honeybee (arXiv 2312.06742): convolutions before and after the pooling keep the tokens local.

Computes what the official code computes; its blocks are timm's RegNet stages, as there. The official projector reads
the tower's last layer, this one the layer that the backbone selects for all projectors.
"""

from __future__ import annotations

import torch
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import Tensor, nn
from torch.nn import functional as F

from vr_eval.layers.windows import from_grid, to_grid
from vr_eval.methods.base import Projector, Shapes, VisionFeatures
from vr_eval.methods.c_abstractor.spec import CAbstractorOptions


def stage(depth: int, width_in: int, width: int) -> nn.Module:
    """`depth` bottleneck blocks with squeeze-and-excitation, ``(M, width_in, y, x) -> (M, width, y, x)``."""
    return RegStage(depth, width_in, width, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)


class CAbstractor(Projector):
    """``(M, G*G, D) -> (M, g*g, H)``: learned positions, blocks, mean over s x s cells, blocks, MLP with SiLU."""

    def __init__(self, shapes: Shapes, options: CAbstractorOptions) -> None:
        super().__init__()
        options = options.resolve(shapes)
        self.levels = (shapes.select_layer,)
        self.side = shapes.grid // shapes.stride
        width = options.width or 0
        self.pos_emb = nn.Parameter(torch.empty(1, shapes.grid**2, shapes.tower_width))
        nn.init.trunc_normal_(self.pos_emb, std=0.02)
        self.before = stage(options.depth, shapes.tower_width, width)
        self.after = stage(options.depth, width, width)
        readout: list[nn.Module] = [nn.Linear(width, shapes.decoder_width)]
        for _ in range(options.mlp_depth - 1):
            readout += [nn.SiLU(), nn.Linear(shapes.decoder_width, shapes.decoder_width)]
        self.readout = nn.Sequential(*readout)

    def forward(self, features: VisionFeatures) -> Tensor:
        grid = self.before(to_grid(features.level(self.levels[0]) + self.pos_emb))
        return self.readout(from_grid(self.after(F.adaptive_avg_pool2d(grid, self.side))))
