"""Perceiver resampler as Qwen-VL has it (arXiv 2308.12966): learned queries attend to all patches, once.

Computes what the official code computes, norms and initialisation included, with as many queries as the ratio leaves
tokens. Any query may look anywhere, so the tokens do not stand over cells of the patch grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vr_eval.layers.windows import from_grid, to_grid
from vr_eval.methods.base import Projector, Shapes, VisionFeatures
from vr_eval.methods.resampler.spec import ResamplerOptions

_EPS = 1e-6


def sine_cosine_grid(side: int, width: int) -> Tensor:
    """2D sine-cosine position embeddings ``(side*side, width)``, row-major.

    The first half of the channels is the column's, the second the row's; in each, sines, then cosines, at frequencies
    ``10000 ** (-i / (width/4))``.

    Raises:
        ValueError: `width` is no multiple of 4.

    Source: Masked Autoencoders, arXiv 2111.06377 (official code), which Qwen-VL uses.
    """
    if width % 4:
        raise ValueError(f"2D sine-cosine positions need a width that is a multiple of 4, not {width}")
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1).float()  # (side, width/2)
    column, row = line.expand(side, side, -1), line[:, None].expand(side, side, -1)
    return torch.cat([column, row], dim=-1).flatten(0, 1)


def resized_positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings ``(g*g, C)`` on a ``side x side`` grid, bicubic as in the official code; ``(side**2, C)``."""
    grid = to_grid(positions.unsqueeze(0))
    if grid.shape[-1] == side:
        return positions
    return from_grid(F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False))[0]


class Resampler(Projector):
    """``(M, G*G, D) -> (M, g*g, H)``; one cross-attention without residual."""

    query_positions: Tensor
    key_positions: Tensor

    def __init__(self, shapes: Shapes, options: ResamplerOptions) -> None:
        super().__init__()
        self.levels = (shapes.select_layer,)
        self.grid, self.side = shapes.grid, shapes.grid // shapes.stride
        self.width = width = shapes.decoder_width
        self.query = nn.Parameter(torch.empty(self.side**2, width))
        same = shapes.tower_width == width
        self.kv_proj = nn.Identity() if same else nn.Linear(shapes.tower_width, width, bias=False)
        self.ln_q = nn.LayerNorm(width, eps=_EPS)
        self.ln_kv = nn.LayerNorm(width, eps=_EPS)
        self.attn = nn.MultiheadAttention(width, options.resolve(shapes).heads or 1, batch_first=True)
        self.ln_post = nn.LayerNorm(width, eps=_EPS)
        self.proj = nn.Linear(width, width, bias=False)
        self.reset_parameters()
        self.reset_buffers()

    def reset_parameters(self) -> None:
        """Truncated normal 0.02, but for the output projection; the attention's input projection stays Xavier."""
        nn.init.trunc_normal_(self.query, std=0.02)
        for module in (self.kv_proj, self.attn.out_proj):
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(self.attn.out_proj.bias)
        nn.init.normal_(self.proj.weight, std=self.width**-0.5)

    def reset_buffers(self) -> None:
        positions = sine_cosine_grid(self.side, self.width)
        self.register_buffer("query_positions", positions, persistent=False)
        self.register_buffer("key_positions", resized_positions(positions, self.grid), persistent=False)

    def forward(self, features: VisionFeatures) -> Tensor:
        value = self.ln_kv(self.kv_proj(features.level(self.levels[0])))  # (M, G*G, H)
        key = value + self.key_positions.to(value.dtype)
        query = self.ln_q(self.query) + self.query_positions.to(value.dtype)
        seen, _ = self.attn(query.expand(len(value), -1, -1), key, value, need_weights=False)
        return self.proj(self.ln_post(seen))
