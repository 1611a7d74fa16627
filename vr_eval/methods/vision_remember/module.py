"""Vision Remember (arXiv 2506.03928): vision tokens look at the tower's features again between decoder layers.

Every insertion point has two parts (figure 2 of the paper): a local cross-attention from each vision token to the patch
features under it, and a bidirectional self-attention among an image's vision tokens and one text-guided token. The
paper's text is not available to us: the exact equations, sizes and defaults below are ours unless marked, and each
choice is an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vr_eval.layers.attention import full_attention, window_attention
from vr_eval.layers.windows import window_index
from vr_eval.methods.base import Refusion, RefusionInput, Shapes, VisionFeatures, VisionLayout
from vr_eval.methods.vision_remember.spec import VisionRememberOptions

_EPS = 1e-6


class CrossAttention(nn.Module):
    """Token-Feature Cross-Attention: ``v + Wo attn(Wq norm(v), K, V)``, K and V from the window under each token."""

    def __init__(self, width: int, source_width: int, slots: int, heads: int, *, zero_init: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width, eps=_EPS)
        self.query = nn.Linear(width, width, bias=False)
        # None in the inference version, where one product serves all insertion points.
        self.key_value: nn.Linear | None = nn.Linear(source_width, 2 * width, bias=False)
        self.cell = nn.Parameter(torch.zeros(slots, width))  # the learned embedding of a window cell, added to keys
        self.out = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.cell, std=0.02)
        if zero_init:
            nn.init.zeros_(self.out.weight)

    def forward(self, tokens: Tensor, key_value: Tensor, windows: Tensor | None) -> Tensor:
        """Tokens ``(M, N, H)``, projected cells ``(M, C, 2*H)``, windows ``(N, W)`` into C; None: all cells for all."""
        query = self.query(self.norm(tokens))
        if windows is None:
            key, value = key_value.chunk(2, dim=-1)
            seen = full_attention(query, key + self.cell, value, self.heads)
        else:
            key, value = key_value[:, windows].flatten(0, 1).chunk(2, dim=-1)  # (M*N, W, H) each
            seen = window_attention(query.flatten(0, 1), key + self.cell, value, self.heads).view_as(query)
        return tokens + self.out(seen)


class SelfAttention(nn.Module):
    """Token Bidirectional Self-Attention: ``x = [v; t]``, ``v + Uo attn(norm(x))[:N]``, no mask, no positions."""

    def __init__(self, width: int, heads: int, *, zero_init: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width, eps=_EPS)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        if zero_init:
            nn.init.zeros_(self.out.weight)

    def forward(
        self, tokens: Tensor, guide: Tensor | None, guided: Tensor | None, present: Tensor | None = None
    ) -> Tensor:
        """Tokens ``(M, N, H)``, guide ``(M, H)``; guided ``(M,)`` bool: False where a sample has no instruction.

        present: ``(M, N)`` bool, False where a tile shows no token, None where it shows all.
        """
        count = tokens.shape[1]
        mask = present
        x = tokens
        if guide is not None and guided is not None:
            x = torch.cat([tokens, guide.unsqueeze(1).to(tokens.dtype)], dim=1)
            if present is not None or not bool(guided.all()):
                shown = torch.ones_like(tokens[..., 0], dtype=torch.bool) if present is None else present
                mask = torch.cat([shown, guided.unsqueeze(1)], dim=1)
        if present is not None and mask is not None:
            mask = mask | ~mask.any(1, keepdim=True)  # a tile of padding alone: nothing of it is read
        query, key, value = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return tokens + self.out(full_attention(query[:, :count], key, value, self.heads, mask))


class FeedForward(nn.Module):
    """``v + W2 GELU(W1 norm(v))``, four times as wide; off by default."""

    def __init__(self, width: int, *, zero_init: bool) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=_EPS)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(4 * width, width, bias=False)
        if zero_init:
            nn.init.zeros_(self.out.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.out(nn.functional.gelu(self.up(self.norm(tokens))))


class Block(nn.Module):
    """The parts of one insertion point, those that `order` names, in its order."""

    def __init__(self, shapes: Shapes, source_width: int, slots: int, options: VisionRememberOptions) -> None:
        super().__init__()
        width, zero = shapes.decoder_width, options.zero_init
        self.cross: CrossAttention | None = None
        self.self_attention: SelfAttention | None = None
        self.ffn: FeedForward | None = None
        if options.order != "self_only":
            self.cross = CrossAttention(width, source_width, slots, options.heads, zero_init=zero)
        if options.order != "cross_only":
            self.self_attention = SelfAttention(width, options.heads, zero_init=zero)
        if options.ffn:
            self.ffn = FeedForward(width, zero_init=zero)


class VisionRemember(Refusion):
    """Vision Remember modules after the decoder layers `layers`; at prefill only, on vision positions only."""

    windows: Tensor | None
    key_values: nn.Linear | None
    """Keys and values of all insertion points, in the inference version."""
    blocks: Any  # nn.ModuleList of Block, whose items it types as Module

    def __init__(self, shapes: Shapes, options: VisionRememberOptions) -> None:
        super().__init__()
        self.options = options = options.resolve(shapes)
        wanted = options.levels or ()
        self.levels = wanted[-1:] if options.fusion == "last" else wanted
        self.layers = options.layers or ()
        self.shapes = shapes
        self.reset_buffers()
        cells = self.windows.shape[1] if self.windows is not None else shapes.grid**2
        # With per_level and global scope the source lists every level's cells, one slot each.
        every_level = options.fusion == "per_level"
        slots = cells * len(self.levels) if every_level and self.windows is None else cells
        source_width = shapes.tower_width * (1 if every_level else len(self.levels))
        self.blocks = nn.ModuleList(Block(shapes, source_width, slots, options) for _ in self.layers)
        self.key_values = None

    def reset_buffers(self) -> None:
        windows = None
        if self.options.scope == "local":
            windows = window_index(self.shapes.grid, self.shapes.stride, self.options.halo)
            if self.options.fusion == "per_level":
                # The cells of level l start at l * G*G in the flattened source.
                starts = torch.arange(len(self.levels)).mul(self.shapes.grid**2).view(-1, 1, 1)
                windows = (windows + starts).transpose(0, 1).flatten(1)  # (N, len(levels) * W)
        self.register_buffer("windows", windows, persistent=False)

    def source(self, features: VisionFeatures) -> Tensor:
        """What keys and values are made from: ``(M, C, channels)``, C cells (of every level with `per_level`)."""
        if self.options.fusion == "per_level":
            return features.stack(self.levels).transpose(1, 2).flatten(1, 2)
        return features.concat(self.levels)

    def to_inference(self) -> None:
        """Stack the key and value weights of all points, so that one matrix product serves them all."""
        crossing = [block.cross for block in self.blocks if block.cross is not None]
        if not crossing or self.key_values is not None:
            return
        weight = torch.cat([cross.key_value.weight for cross in crossing]).detach()
        self.key_values = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.key_values.weight = nn.Parameter(weight, requires_grad=False)
        for cross in crossing:
            cross.key_value = None

    def prepare(self, features: VisionFeatures) -> Sequence[Tensor] | None:
        """Keys and values ``(M, C, 2*H)`` of every insertion point, from one product; None in the training version."""
        if self.key_values is None:
            return None
        return self.key_values(self.source(features)).chunk(len(self.blocks), dim=-1)

    def inject(self, point: int, hidden: Tensor, given: RefusionInput) -> Tensor:
        block = self.blocks[point]
        tokens = given.layout.gather(hidden)

        def cross(v: Tensor) -> Tensor:
            if block.cross is None:
                return v
            ready = given.prepared
            key_value = block.cross.key_value(self.source(given.features)) if ready is None else ready[point]
            return block.cross(v, key_value, self.windows)

        def mix(v: Tensor) -> Tensor:
            if block.self_attention is None:
                return v
            guide, guided = text_guide(self.options.text_guide, hidden, given.instruction, given.layout)
            return block.self_attention(v, guide, guided, given.layout.present())

        steps = (mix, cross) if self.options.order == "self_first" else (cross, mix)
        for step in steps:
            tokens = step(tokens)
        if block.ffn is not None:
            tokens = block.ffn(tokens)
        return given.layout.scatter(hidden, tokens)


def text_guide(
    kind: str, hidden: Tensor, instruction: Tensor, layout: VisionLayout
) -> tuple[Tensor | None, Tensor | None]:
    """The text-guided token of every image.

    Args:
        kind: ``mean`` or ``last`` of the instruction's hidden states, or ``none``.
        hidden: ``(B, S, H)``.
        instruction: ``(B, S)`` bool; holds no answer token, or training would see the answer.

    Returns:
        ``(M, H)`` and ``(M,)`` bool, False where the sample has no instruction; ``(None, None)`` for ``none``.
    """
    if kind == "none":
        return None, None
    has = instruction.any(1)
    if kind == "mean":
        weight = instruction.to(hidden.dtype).unsqueeze(-1)
        # Masked by selection, not by product: an infinite padding state times 0 would be NaN.
        total = torch.where(instruction.unsqueeze(-1), hidden, hidden.new_zeros(())).sum(1)
        guide = total / weight.sum(1).clamp(min=1)
    else:
        places = torch.arange(instruction.shape[1], device=hidden.device)
        last = torch.where(instruction, places, places.new_zeros(())).amax(1)
        # Of a sample without instruction that is padding, which may hold anything.
        guide = torch.where(has[:, None], hidden[torch.arange(len(hidden), device=hidden.device), last], 0)
    rows = layout.row_of_image()
    return guide[rows], has[rows]
