"""Spatial Vision Aggregator of Cambrian-1 (arXiv 2406.16860): queries look at the cells of their own window.

    tower -> aux = LN(Linear(GELU(Linear)))  -> windows -> keys, values
                                             -> mean    -> context
    layer: z = Win [q ; Wctx context];  z = LN(z + Wo attn(z, windows));  out = q + W2 GELU(W1 z)

Before the decoder (`SVAConnector`) one learned query starts every token; inside it (`SVA`) the vision tokens themselves
are the queries. Computes what the official code computes (reference outputs agree), under its parameter names. The
official GPU path skips the layers inside the decoder while training; here gradients reach them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vr_eval.layers.attention import window_attention
from vr_eval.layers.windows import window_index
from vr_eval.methods.base import Projector, Refusion, RefusionInput, Shapes, VisionFeatures
from vr_eval.methods.mlp import gelu_mlp
from vr_eval.methods.options import SVAConnectorOptions, SVAOptions

HEADS = 16
"""Attention heads of the official code."""


def normed_linear(width_in: int, width_out: int) -> nn.Sequential:
    """LayerNorm, then Linear without bias."""
    return nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, width_out, bias=False))


class WindowCrossAttention(nn.Module):
    """One query per token over the windows of all towers together, each tower with its own keys and values."""

    def __init__(self, width: int, source_widths: Sequence[int], heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads, self.towers = heads, len(source_widths)
        self.q_proj = normed_linear(width, width)
        for i, source in enumerate(source_widths):
            self.add_module(f"k_proj_{i}", normed_linear(source, width))
            self.add_module(f"v_proj_{i}", normed_linear(source, width))
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, query: Tensor, windows: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Query ``(T, C)``, windows ``(T, W_i, C_i)``, mask ``(T, sum of W_i)`` bool or None; ``(T, C)``."""
        keys = [self.get_submodule(f"k_proj_{i}")(cells) for i, cells in enumerate(windows)]
        values = [self.get_submodule(f"v_proj_{i}")(cells) for i, cells in enumerate(windows)]
        seen = window_attention(self.q_proj(query), torch.cat(keys, 1), torch.cat(values, 1), self.heads, mask)
        return self.o_proj(seen)


class OutputMLP(nn.Module):
    """``W2 GELU(W1 z)`` without biases."""

    def __init__(self, width: int, width_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, width, bias=False)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(width, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


class SamplerLayer(nn.Module):
    """One layer of the aggregator."""

    def __init__(
        self,
        query_width: int,
        context_width: int,
        source_widths: Sequence[int],
        sides: Sequence[int],
        width: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.proj_context = nn.Linear(context_width, width, bias=False)
        self.proj_in = nn.Linear(query_width + width, width, bias=False)
        self.proj_out = OutputMLP(width, query_width)
        self.norm = nn.LayerNorm(width)
        self.cross_attn = WindowCrossAttention(width, source_widths, heads)
        self.placed = tuple(i for i, side in enumerate(sides) if side > 1)
        for i in self.placed:
            # One embedding per cell of a window; a window of one cell has no places to tell apart.
            self.register_parameter(f"pos_embed_{i}", nn.Parameter(torch.randn(sides[i] ** 2, width)))

    def forward(self, query: Tensor, context: Tensor, windows: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Shapes as in `VisionTokenSampler`; mask ``(M*N, sum of W_i)`` bool."""
        lifted = self.proj_context(context).expand(-1, query.shape[1], -1)
        inner = self.proj_in(torch.cat([query, lifted], dim=-1))
        cells = [
            window + self.get_parameter(f"pos_embed_{i}") if i in self.placed else window
            for i, window in enumerate(windows)
        ]
        inner = self.norm(inner + self.cross_attn(inner.flatten(0, 1), cells, mask).view_as(inner))
        return query + self.proj_out(inner)


class VisionTokenSampler(nn.Module):
    """A stack of layers over the same windows (the official class, `layer_type` joint).

    Args:
        query_width: channels of the tokens.
        context_width: channels of the context.
        source_widths: channels of each tower's cells.
        sides: cells along one side of each tower's windows.
        width: channels of the attention; also those of cells in windows of more than one cell.
        depth: number of layers.
        heads: attention heads; divides `width`.
    """

    def __init__(
        self,
        query_width: int,
        context_width: int,
        source_widths: Sequence[int],
        sides: Sequence[int],
        width: int,
        depth: int = 1,
        heads: int = HEADS,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SamplerLayer(query_width, context_width, source_widths, sides, width, heads) for _ in range(depth)
        )

    def forward(
        self, query: Tensor, context: Tensor, windows: Sequence[Tensor], masks: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Tokens ``(M, N, query_width)``.

        Args:
            query: ``(M, N, query_width)``.
            context: ``(M, 1, context_width)``, the same for all N tokens.
            windows: one ``(M*N, side**2, source_width)`` per tower.
            masks: one ``(M*N, side**2)`` bool per tower, True where a cell may be seen (`open_windows` makes sure that
                every window has one); None where all may.
        """
        mask = None if masks is None else torch.cat(list(masks), dim=-1)
        for layer in self.layers:
            query = layer(query, context, windows, mask)
        return query


def open_windows(mask: Tensor) -> Tensor:
    """`mask` ``(T, W)`` with every window that is all padding left open (official code): it attends to padding."""
    return mask | ~mask.any(-1, keepdim=True)


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

        `window` is the ``(N, s*s)`` index of `window_index`.
        """
        maps = [
            self.get_submodule(f"mm_projector_aux_{i}")(features.level(level)) for i, level in enumerate(self.levels)
        ]
        return maps[0].mean(1, keepdim=True), [cells[:, window].flatten(0, 1) for cells in maps]


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


class SVA(Refusion):
    """One layer of the aggregator after each of some decoder layers; the vision tokens are its queries."""

    window: Tensor

    def __init__(self, shapes: Shapes, options: SVAOptions) -> None:
        super().__init__()
        options = options.resolve(shapes)
        self.levels, self.layers = options.levels or (), options.layers
        self.grid, self.stride = shapes.grid, shapes.stride
        self.reset_buffers()
        self.towers: TowerProjections | None = TowerProjections(shapes, self.levels, options.width or 0)
        self.vision_sampler_layers = nn.ModuleList(
            sampler(shapes.decoder_width, self.towers, 1, options.heads) for _ in self.layers
        )
        # In a tuple, so that the connector is no part of this module: its parameters are its own.
        self._connector: tuple[SVAConnector, ...] = ()

    def share(self, projector: Projector) -> None:
        """One projection of the tower serves both where the connector has the same (official code)."""
        own = self.towers
        if own is None or not isinstance(projector, SVAConnector):
            return
        if (own.levels, own.width) == (projector.towers.levels, projector.towers.width):
            self.towers, self._connector = None, (projector,)

    def reset_buffers(self) -> None:
        self.register_buffer("window", window_index(self.grid, self.stride), persistent=False)

    def prepare(self, features: VisionFeatures) -> object:
        """Context and windows, which are the same for all insertion points."""
        towers = self.towers if self.towers is not None else self._connector[0].towers
        return towers(features, self.window)

    def inject(self, point: int, hidden: Tensor, given: RefusionInput) -> Tensor:
        context, windows = cast(tuple[Tensor, list[Tensor]], given.prepared)
        tokens = given.layout.gather(hidden)
        return given.layout.scatter(hidden, self.vision_sampler_layers[point](tokens, context, windows))
