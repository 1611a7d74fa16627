"""Vision Remember a second time: written from its definition alone, to compare the module with.

There is no official code. Here a tile, a token and a cell of its window come one after the other, as the definition
words them; nothing is shared with `vr_eval`, and all of it is NumPy's float64. The equations:

    cross   q = Wq norm(v);  keys and values from the cells under the token;  v = v + Wo attn(q, k + e, val)
    self    x = [v; t];  v = v + Uo attn(norm(x)), of the rows of v
    ffn     v = v + Wdown gelu(Wup norm(v))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Maps = NDArray[np.float64]
"""``(G*G, D)``: one level of one tile."""
Weights = Mapping[str, NDArray[np.float64]]
"""The parameters of one block, by their names in it."""


@dataclass(frozen=True)
class Definition:
    """The options, and the sizes that they are read with."""

    grid: int
    stride: int
    heads: int
    levels: Sequence[int]
    fusion: str = "concat"
    scope: str = "local"
    halo: int = 0
    order: str = "cross_first"
    text_guide: str = "mean"
    ffn: bool = False


def block(
    definition: Definition,
    weights: Weights,
    features: Mapping[int, Maps],
    tokens: Mapping[int, Vector],
    guide: Vector | None,
) -> dict[int, Vector]:
    """The tokens of one tile, by their place, after one block.

    Args:
        features: the tile's, by level.
        tokens: those that the decoder is shown; the place is that in the g x g grid, row by row.
        guide: the text-guided token; None where there is none.
    """
    steps = {
        "cross_first": ("cross", "self"),
        "self_first": ("self", "cross"),
        "cross_only": ("cross",),
        "self_only": ("self",),
    }[definition.order]
    now = dict(tokens)
    for step in steps:
        if step == "cross":
            now = {place: _cross(definition, weights, features, place, v) for place, v in now.items()}
        else:
            now = _self(definition, weights, now, guide)
    if definition.ffn:
        now = {place: _feed_forward(weights, v) for place, v in now.items()}
    return now


def guide_of(kind: str, instruction: Sequence[Vector]) -> Vector | None:
    """The text-guided token from the hidden states of a sample's instruction tokens, in their order."""
    if kind == "none" or not instruction:
        return None
    if kind == "last":
        return instruction[-1]
    total = np.zeros_like(instruction[0])
    for state in instruction:
        total = total + state
    return total / len(instruction)


def _cross(
    definition: Definition,
    weights: Weights,
    features: Mapping[int, Maps],
    place: int,
    token: Vector,
) -> Vector:
    width = len(token)
    project = weights["cross.key_value.weight"]
    keys, values = [], []
    for fused, embedding in zip(_cells(definition, features, place), weights["cross.cell"], strict=True):
        keys.append(project[:width] @ fused + embedding)
        values.append(project[width:] @ fused)
    query = weights["cross.query.weight"] @ _norm(token, weights["cross.norm.weight"])
    return token + weights["cross.out.weight"] @ _attend(definition.heads, query, keys, values)


def _cells(definition: Definition, features: Mapping[int, Maps], place: int) -> list[Vector]:
    """What the keys of a token are made of, one vector for each; each has a learned embedding of its own."""
    window, levels = _window(definition, place), definition.levels
    if definition.fusion == "last":
        return [features[max(levels)][cell] for cell in window]
    if definition.fusion == "concat":
        return [np.concatenate([features[level][cell] for level in levels]) for cell in window]
    return [features[level][cell] for level in levels for cell in window]


def _window(definition: Definition, place: int) -> list[int]:
    """The cells of the patch grid that a token looks at, row by row."""
    grid, stride, halo = definition.grid, definition.stride, definition.halo
    if definition.scope == "global":
        return list(range(grid * grid))
    top, left = place // (grid // stride) * stride, place % (grid // stride) * stride
    # Clamped at the border: a cell there stands for those beyond it.
    ys = [min(max(y, 0), grid - 1) for y in range(top - halo, top + stride + halo)]
    xs = [min(max(x, 0), grid - 1) for x in range(left - halo, left + stride + halo)]
    return [y * grid + x for y in ys for x in xs]


def _self(
    definition: Definition, weights: Weights, tokens: Mapping[int, Vector], guide: Vector | None
) -> dict[int, Vector]:
    queries, keys, values = {}, [], []
    for place, state in [*tokens.items(), *([] if guide is None else [(None, guide)])]:
        normed = _norm(state, weights["self_attention.norm.weight"])
        query, key, value = np.split(weights["self_attention.qkv.weight"] @ normed, 3)
        queries[place] = query
        keys.append(key)
        values.append(value)
    out = weights["self_attention.out.weight"]
    return {p: v + out @ _attend(definition.heads, queries[p], keys, values) for p, v in tokens.items()}


def _feed_forward(weights: Weights, token: Vector) -> Vector:
    inner = weights["ffn.up.weight"] @ _norm(token, weights["ffn.norm.weight"])
    active = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in inner])
    return token + weights["ffn.out.weight"] @ active


def _attend(heads: int, query: Vector, keys: Sequence[Vector], values: Sequence[Vector]) -> Vector:
    """Attention of one query, head by head."""
    size = len(query) // heads
    found = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        weight = [math.exp(float(query[own] @ key[own]) / math.sqrt(size)) for key in keys]
        total = sum(weight)
        mixed = np.zeros(size)
        for w, value in zip(weight, values, strict=True):
            mixed = mixed + w / total * value[own]
        found.append(mixed)
    return np.concatenate(found)


def _norm(state: Vector, gain: Vector) -> Vector:
    """Root mean square norm."""
    return state / np.sqrt(np.mean(state**2) + 1e-6) * gain
