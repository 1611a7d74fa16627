"""Attention inside small windows and among all tokens, and the weights that some tokens give to all others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(..., C)`` to ``(..., heads, C/heads)``."""
    return x.unflatten(-1, (heads, -1))


def window_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of every token over the cells of its own window.

    Args:
        query: ``(T, C)``, one query per token.
        key: ``(T, W, C)``, the window of each token.
        value: ``(T, W, C)``.
        heads: number of heads; divides ``C``.
        mask: ``(T, W)`` bool, True where a cell may be seen, at least one per token; None where all may.

    Returns:
        ``(T, C)``. The softmax runs in float32 or, of float64 inputs, in float64.

    Source: Vaswani et al. 2017, eq. 1, restricted to windows (Vision Remember, figure 3).
    """
    if has_torch_function((query, key, value)):
        # No matrix product, so that this alone tells a counter of operations of it (measure/flops.py).
        given = (query, key, value)
        return handle_torch_function(window_attention, given, *given, heads, mask)
    q = split_heads(query, heads).unsqueeze(1)  # (T, 1, h, d)
    k = split_heads(key, heads)  # (T, W, h, d)
    scores = (q * k).sum(-1) * q.shape[-1] ** -0.5  # (T, W, h)
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(-1), -torch.inf)
    precise = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.to(precise).softmax(1).to(value.dtype)
    return (weights.unsqueeze(-1) * split_heads(value, heads)).sum(1).flatten(1)


def full_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Bidirectional attention among all tokens of a group.

    Args:
        query: ``(M, N, C)``; key, value: ``(M, L, C)``; heads divides ``C``.
        mask: ``(M, L)`` bool, True where a key may be seen; None where all may.

    Returns:
        ``(M, N, C)``.
    """
    q, k, v = (split_heads(x, heads).transpose(1, 2) for x in (query, key, value))
    attend = None if mask is None else mask[:, None, None, :]
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attend)
    return out.transpose(1, 2).flatten(2)


def attention_rows(query: Tensor, key: Tensor, scaling: float, allowed: Tensor) -> Tensor:
    """The attention weights of some tokens of a decoder layer, whose positions and norms are applied already.

    Args:
        query: ``(B, heads, Q, d)``, the tokens that ask.
        key: ``(B, groups, S, d)``; `groups` divides `heads`.
        scaling: Factor of the scores.
        allowed: ``(B, 1, Q, S)`` bool, True where a key may be seen. A row without any gives the same to all keys.

    Returns:
        ``(B, heads, Q, S)`` float32; each row sums to 1.
    """
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = (query @ key.mT).float() * scaling
    return scores.masked_fill(~allowed, torch.finfo(torch.float32).min).softmax(-1)
