"""The layers of the Spatial Vision Aggregator (Cambrian-1, arXiv 2406.16860), under the official parameter names.

What they compute stands at the top of methods/sva_connector/module.py; methods/sva/ places them inside the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vr_eval.layers.attention import window_attention

HEADS = 16
"""Attention heads of the official code."""


def normed_linear(width_in: int, width_out: int) -> nn.Sequential:
    """LayerNorm, then Linear without bias."""
    return nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, width_out, bias=False))


@torch.no_grad()
def merged(lifts: Sequence[nn.Sequential]) -> nn.Sequential:
    """What several `normed_linear` of one input give, side by side on channels, from one norm and one product.

    A norm's gain g and shift b go into the weights behind it: ``W (g x + b) = (W g) x + W b``.
    """
    norms, products = zip(*lifts, strict=True)
    plain = nn.LayerNorm(norms[0].normalized_shape, eps=norms[0].eps, elementwise_affine=False)
    weights = [product.weight * norm.weight for norm, product in zip(norms, products, strict=True)]
    biases = [product.weight @ norm.bias for norm, product in zip(norms, products, strict=True)]
    joint = nn.Linear(weights[0].shape[1], sum(map(len, weights)), device="meta")
    joint.weight = nn.Parameter(torch.cat(weights), requires_grad=False)
    joint.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    return nn.Sequential(plain, joint)


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
        self.key_values: nn.ModuleList | None = None
        """One module a tower for keys and values together, in the inference version."""

    def to_inference(self) -> None:
        """Keys and values of a tower from one norm and one product; their own modules go."""
        if self.key_values is not None:
            return
        self.key_values = nn.ModuleList()
        for i in range(self.towers):
            names = f"k_proj_{i}", f"v_proj_{i}"
            self.key_values.append(merged([cast(nn.Sequential, self.get_submodule(name)) for name in names]))
            for name in names:
                delattr(self, name)

    def _key_value(self, i: int, cells: Tensor) -> Sequence[Tensor]:
        if self.key_values is not None:
            return self.key_values[i](cells).chunk(2, dim=-1)
        return self.get_submodule(f"k_proj_{i}")(cells), self.get_submodule(f"v_proj_{i}")(cells)

    def forward(self, query: Tensor, windows: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Query ``(T, C)``, windows ``(T, W_i, C_i)``, mask ``(T, sum of W_i)`` bool or None; ``(T, C)``."""
        lifted = [self._key_value(i, cells) for i, cells in enumerate(windows)]
        key, value = (torch.cat(parts, 1) for parts in zip(*lifted, strict=True))
        return self.o_proj(window_attention(self.q_proj(query), key, value, self.heads, mask))


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
        # The product over [query ; context] in two parts: the context's is the same for all tokens.
        of_query, of_context = self.proj_in.weight.split((query.shape[-1], len(self.proj_context.weight)), dim=1)
        inner = F.linear(query, of_query) + F.linear(self.proj_context(context), of_context)
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

    def to_inference(self) -> None:
        """Merge what is constant after training."""
        for layer in self.layers:
            cast(SamplerLayer, layer).cross_attn.to_inference()

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
