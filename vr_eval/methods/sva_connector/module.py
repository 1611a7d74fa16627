"""Spatial Vision Aggregator of Cambrian-1 (arXiv 2406.16860): queries look at the cells of their own window.

    tower -> aux = LN(Linear(GELU(Linear)))  -> windows -> keys, values
                                             -> mean    -> context
    layer: z = Win [q ; Wctx context];  z = LN(z + Wo attn(z, windows));  out = q + W2 GELU(W1 z)

Before the decoder (`SVAConnector`, here) one learned query starts every token; inside it (methods/sva/) the vision
tokens themselves are the queries. Computes what the official code computes (reference outputs agree), under its
parameter names. The official GPU path skips the layers inside the decoder while training; here gradients reach them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vr_eval.layers.mlp import gelu_mlp
from vr_eval.layers.windows import window_index
from vr_eval.methods.base import Projector, Shapes, VisionFeatures
from vr_eval.methods.sva_connector.layers import VisionTokenSampler
from vr_eval.methods.sva_connector.spec import SVAConnectorOptions


class TowerProjections(nn.Module):
    """Projects each level of the tower (each like a tower of its own) and cuts it into the windows under the tokens."""

    def __init__(self, shapes: Shapes, levels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.levels, self.width, self.side = levels, width, shapes.stride
        for i in range(len(levels)):
            projection = (*gelu_mlp(shapes.tower_width, width, 2), nn.LayerNorm(width))
            self.add_module(f"mm_projector_aux_{i}", nn.Sequential(*projection))

    def forward(self, features: VisionFeatures, window: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The context ``(M, 1, C)``, the first level's mean, and for each level its windows ``(M*N, s*s, C)``.

        `window` is the ``(N, s*s)`` index of `window_index`, the same for all who share these projections.
        """
        if self not in features.shared:
            lifts = [self.get_submodule(f"mm_projector_aux_{i}") for i in range(len(self.levels))]
            maps = [lift(features.level(level)) for lift, level in zip(lifts, self.levels, strict=True)]
            windows = [cells[:, window].flatten(0, 1) for cells in maps]
            features.shared[self] = maps[0].mean(1, keepdim=True), windows
        made: tuple[Tensor, list[Tensor]] = features.shared[self]
        return made


def sampler(query_width: int, towers: TowerProjections, depth: int, heads: int) -> VisionTokenSampler:
    """A sampler over all levels of `towers`."""
    levels = len(towers.levels)
    widths, sides = [towers.width] * levels, [towers.side] * levels
    return VisionTokenSampler(query_width, towers.width, widths, sides, towers.width, depth, heads)


class SVAConnector(Projector):
    """The aggregator before the decoder: ``(M, G*G, D) -> (M, g*g, H)``, every token from one learned query."""

    window: Tensor

    def __init__(self, shapes: Shapes, options: SVAConnectorOptions) -> None:
        super().__init__()
        options = options.resolve(shapes)
        self.levels = options.levels or ()
        width = options.width or 0
        self.grid, self.stride = shapes.grid, shapes.stride
        self.reset_buffers()
        self.towers = TowerProjections(shapes, self.levels, width)
        self.vision_query = nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.vision_sampler_0 = sampler(width, self.towers, options.depth, options.heads)
        self.mm_projector = gelu_mlp(width, shapes.decoder_width, 2)

    def reset_buffers(self) -> None:
        self.register_buffer("window", window_index(self.grid, self.stride), persistent=False)

    def forward(self, features: VisionFeatures) -> Tensor:
        context, windows = self.towers(features, self.window)
        query = self.vision_query.expand(len(context), len(self.window), -1)
        return self.mm_projector(self.vision_sampler_0(query, context, windows))

    def to_inference(self) -> None:
        self.vision_sampler_0.to_inference()
