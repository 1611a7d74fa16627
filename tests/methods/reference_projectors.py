"""Projectors that no official reference outputs are at hand for, a second time: loops in NumPy's float64.

Each is ``(G*G, D)`` of one image to its tokens ``(N, H)``, with the parameters by their names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def mlp(cells: Array, weights: Weights, grid: int, stride: int) -> Array:
    """Every patch through Linear, GELU, Linear, ...: LLaVA-1.5's."""
    return np.stack([_mlp(cell, weights) for cell in cells])


def avg_pool(cells: Array, weights: Weights, grid: int, stride: int) -> Array:
    """The mean of the s x s patches under a token, then the MLP."""
    return np.stack([_mlp(sum(cells[i] for i in under) / len(under), weights) for under in _under(grid, stride)])


def pixel_shuffle(cells: Array, weights: Weights, grid: int, stride: int) -> Array:
    """Channel after channel, the s x s patches under a token; LayerNorm and MLP."""
    tokens = []
    for under in _under(grid, stride):
        folded = np.array([cells[i][channel] for channel in range(cells.shape[1]) for i in under])
        tokens.append(_mlp(_layer_norm(folded, weights, "norm", 1e-5), weights))
    return np.stack(tokens)


def ldpv2(cells: Array, weights: Weights, grid: int, stride: int) -> Array:
    """MobileVLM V2's: the MLP on every patch, means, and to each of these a depthwise 3 x 3 convolution of them."""
    projected = mlp(cells, weights, grid, stride)
    pooled = _means(projected, grid, stride)
    return pooled + _depthwise(pooled, weights["peg.weight"]) + weights["peg.bias"]


def resampler(cells: Array, weights: Weights, heads: int, key_positions: Array, query_positions: Array) -> Array:
    """Qwen-VL's: learned queries look at all patches, once; positions are added behind the norms, not to values."""
    width = weights["query"].shape[1]
    query_weight, key_weight, value_weight = np.split(weights["attn.in_proj_weight"], 3)
    query_bias, key_bias, value_bias = np.split(weights["attn.in_proj_bias"], 3)
    keys, values = [], []
    for cell, position in zip(cells, key_positions, strict=True):
        lifted = weights["kv_proj.weight"] @ cell if "kv_proj.weight" in weights else cell
        normed = _layer_norm(lifted, weights, "ln_kv", 1e-6)
        keys.append(key_weight @ (normed + position) + key_bias)
        values.append(value_weight @ normed + value_bias)
    tokens = []
    for learned, position in zip(weights["query"], query_positions, strict=True):
        query = query_weight @ (_layer_norm(learned, weights, "ln_q", 1e-6) + position) + query_bias
        seen = attend(query, keys, values, heads)
        seen = weights["attn.out_proj.weight"] @ seen + weights["attn.out_proj.bias"]
        tokens.append(weights["proj.weight"] @ _layer_norm(seen, weights, "ln_post", 1e-6))
    assert len(tokens[0]) == width
    return np.stack(tokens)


def sine_cosine(side: int, width: int) -> Array:
    """Of each place its column's sines and cosines, then its row's; ``(side * side, width)``."""
    table = []
    for y in range(side):
        for x in range(side):
            place: list[float] = []
            for coordinate in (x, y):
                angles = [coordinate / 10000 ** (4 * i / width) for i in range(width // 4)]
                place += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            table.append(place)
    return np.array(table)


def c_abstractor(cells: Array, weights: Weights, grid: int, stride: int, depth: int) -> Array:
    """Honeybee's: learned positions, blocks, means, blocks, and an MLP with SiLU."""
    now = cells + weights["pos_emb"][0]
    for i in range(depth):
        now = _bottleneck(now, _below(weights, f"before.b{i + 1}."))
    now = _means(now, grid, stride)
    for i in range(depth):
        now = _bottleneck(now, _below(weights, f"after.b{i + 1}."))
    tokens = []
    for token in now:
        for name in sorted({name.split(".")[1] for name in weights if name.startswith("readout.")}, key=int):
            token = silu(token) if name != "0" else token
            token = weights[f"readout.{name}.weight"] @ token + weights[f"readout.{name}.bias"]
        tokens.append(token)
    return np.stack(tokens)


def _bottleneck(cells: Array, weights: Weights) -> Array:
    """RegNet's block: 1 x 1, depthwise 3 x 3, squeeze and excitation, 1 x 1, and a way around them."""
    inner = np.stack([silu(_conv(cell, weights, "conv1")) for cell in cells])
    inner = _depthwise(inner, weights["conv2.conv.weight"])
    inner = np.stack([silu(_layer_norm(cell, weights, "conv2.bn", 1e-5)) for cell in inner])
    squeezed = sum(inner) / len(inner)
    excited = silu(weights["se.fc1.weight"][:, :, 0, 0] @ squeezed + weights["se.fc1.bias"])
    gate = 1 / (1 + np.exp(-(weights["se.fc2.weight"][:, :, 0, 0] @ excited + weights["se.fc2.bias"])))
    around = [_conv(cell, weights, "downsample") if "downsample.conv.weight" in weights else cell for cell in cells]
    return np.stack([silu(_conv(cell * gate, weights, "conv3") + way) for cell, way in zip(inner, around, strict=True)])


def _conv(cell: Array, weights: Weights, name: str) -> Array:
    return _layer_norm(weights[f"{name}.conv.weight"][:, :, 0, 0] @ cell, weights, f"{name}.bn", 1e-5)


def _depthwise(cells: Array, kernel: Array) -> Array:
    """A 3 x 3 convolution of each channel by itself, with a border of zeros, on a square of cells."""
    side = math.isqrt(len(cells))
    out = np.zeros_like(cells)
    for y in range(side):
        for x in range(side):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if 0 <= y + dy < side and 0 <= x + dx < side:
                        out[y * side + x] += kernel[:, 0, dy + 1, dx + 1] * cells[(y + dy) * side + x + dx]
    return out


def _means(cells: Array, grid: int, stride: int) -> Array:
    return np.stack([sum(cells[i] for i in under) / len(under) for under in _under(grid, stride)])


def _under(grid: int, stride: int) -> list[list[int]]:
    """The patches under each token, row by row."""
    starts = range(0, grid, stride)
    return [
        [y * grid + x for y in range(top, top + stride) for x in range(left, left + stride)]
        for top in starts
        for left in starts
    ]


def _mlp(token: Array, weights: Weights) -> Array:
    numbers = sorted({int(name.split(".")[1]) for name in weights if name.startswith("mlp.")})
    for number in numbers:
        token = gelu(token) if number else token
        token = weights[f"mlp.{number}.weight"] @ token + weights[f"mlp.{number}.bias"]
    return token


def _layer_norm(state: Array, weights: Weights, name: str, eps: float) -> Array:
    centred = state - np.mean(state)
    return centred / np.sqrt(np.mean(centred**2) + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _below(weights: Weights, prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def gelu(state: Array) -> Array:
    return np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in state])


def silu(state: Array) -> Array:
    return state / (1 + np.exp(-state))


def attend(query: Array, keys: Sequence[Array], values: Sequence[Array], heads: int) -> Array:
    """Attention of one query, head by head."""
    size = len(query) // heads
    found = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        weight = [math.exp(float(query[own] @ key[own]) / math.sqrt(size)) for key in keys]
        found.append(sum(w / sum(weight) * value[own] for w, value in zip(weight, values, strict=True)))
    return np.concatenate(found)


def sva_windows(maps: Sequence[Array], weights: Weights, grid: int, stride: int) -> tuple[Array, list[list[Array]]]:
    """Cambrian-1's context, the mean of the first tower, and of each tower the projected cells under every token."""
    lifted = []
    for i, cells in enumerate(maps):
        own = _below(weights, f"mm_projector_aux_{i}.")
        inner = [gelu(own["0.weight"] @ cell + own["0.bias"]) for cell in cells]
        lifted.append(np.stack([_layer_norm(own["2.weight"] @ c + own["2.bias"], own, "3", 1e-5) for c in inner]))
    windows = [[cells[under] for under in _under(grid, stride)] for cells in lifted]
    return sum(lifted[0]) / len(lifted[0]), windows


def sva_layer(query: Array, context: Array, windows: Sequence[Array], weights: Weights, heads: int) -> Array:
    """Cambrian-1's aggregator on one token, whose window in each tower is ``(s*s, C)``."""
    inner = weights["proj_in.weight"] @ np.concatenate([query, weights["proj_context.weight"] @ context])
    keys, values = [], []
    for i, window in enumerate(windows):
        for number, cell in enumerate(window):
            placed = cell + weights[f"pos_embed_{i}"][number] if len(window) > 1 else cell
            keys.append(_lift(placed, weights, f"cross_attn.k_proj_{i}"))
            values.append(_lift(placed, weights, f"cross_attn.v_proj_{i}"))
    seen = attend(_lift(inner, weights, "cross_attn.q_proj"), keys, values, heads)
    inner = _layer_norm(inner + weights["cross_attn.o_proj.weight"] @ seen, weights, "norm", 1e-5)
    return query + weights["proj_out.linear_2.weight"] @ gelu(weights["proj_out.linear_1.weight"] @ inner)


def sva_connector(maps: Sequence[Array], weights: Weights, grid: int, stride: int, depth: int, heads: int) -> Array:
    """Every token starts as one learned query and goes through some layers, then an MLP."""
    context, windows = sva_windows(maps, _below(weights, "towers."), grid, stride)
    tokens = []
    for place in range((grid // stride) ** 2):
        token = weights["vision_query"][0]
        for i in range(depth):
            own = _below(weights, f"vision_sampler_0.layers.{i}.")
            token = sva_layer(token, context, [tower[place] for tower in windows], own, heads)
        token = weights["mm_projector.0.weight"] @ token + weights["mm_projector.0.bias"]
        tokens.append(weights["mm_projector.2.weight"] @ gelu(token) + weights["mm_projector.2.bias"])
    return np.stack(tokens)


def _lift(cell: Array, weights: Weights, name: str) -> Array:
    return weights[f"{name}.1.weight"] @ _layer_norm(cell, weights, f"{name}.0", 1e-5)
