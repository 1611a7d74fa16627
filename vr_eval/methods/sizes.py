"""How many parameters a method adds to a backbone, from its sizes alone: what `vr-eval list` shows without torch.

A test builds every method and compares.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

from vr_eval.methods.options import Shape


def linear(width_in: int, width_out: int, *, bias: bool = True) -> int:
    return width_in * width_out + (width_out if bias else 0)


def layer_norm(width: int) -> int:
    return 2 * width


def gelu_mlp(width_in: int, width_out: int, depth: int) -> int:
    return linear(width_in, width_out) + (depth - 1) * linear(width_out, width_out)


def attention(width: int) -> int:
    """`nn.MultiheadAttention`: joint input projection and output projection, with biases."""
    return 4 * linear(width, width)


def patch_mlp(shape: Shape, ratio: int, options: Any) -> int:
    """mlp and avg_pool."""
    return gelu_mlp(shape.tower_width, shape.decoder_width, options.depth)


def pixel_shuffle(shape: Shape, ratio: int, options: Any) -> int:
    width = shape.tower_width * ratio
    return layer_norm(width) + gelu_mlp(width, shape.decoder_width, options.depth)


def tokenpacker(shape: Shape, ratio: int, options: Any) -> int:
    width = shape.tower_width
    lift = gelu_mlp(len(options.levels) * width, width, 2)
    queries = linear(width, width, bias=False)
    return queries + 2 * lift + 3 * layer_norm(width) + attention(width) + gelu_mlp(width, shape.decoder_width, 2)


def ldpv2(shape: Shape, ratio: int, options: Any) -> int:
    depthwise = 9 * shape.decoder_width + shape.decoder_width
    return gelu_mlp(shape.tower_width, shape.decoder_width, 2) + depthwise


def resampler(shape: Shape, ratio: int, options: Any) -> int:
    width = shape.decoder_width
    queries = shape.grid**2 // ratio * width
    lift = 0 if shape.tower_width == width else linear(shape.tower_width, width, bias=False)
    return queries + lift + 3 * layer_norm(width) + attention(width) + linear(width, width, bias=False)


def c_abstractor(shape: Shape, ratio: int, options: Any) -> int:
    width = options.width
    places = shape.grid**2 * shape.tower_width
    before = _regnet_block(shape.tower_width, width) + (options.depth - 1) * _regnet_block(width, width)
    after = options.depth * _regnet_block(width, width)
    return places + before + after + gelu_mlp(width, shape.decoder_width, options.mlp_depth)


def _regnet_block(width_in: int, width: int) -> int:
    """Bottleneck without a narrow part, a group per channel: three convolutions with norms, squeeze-and-excitation."""
    convolutions = width_in * width + 9 * width + width * width + 3 * layer_norm(width)
    squeezed = round(width_in * 0.25)
    shortcut = 0 if width_in == width else width_in * width + layer_norm(width)
    return convolutions + linear(width, squeezed) + linear(squeezed, width) + shortcut


def sva_connector(shape: Shape, ratio: int, options: Any) -> int:
    width = options.width
    layers = options.depth * _sampler_layer(width, ratio, options)
    return _tower_projections(shape, options) + width + layers + gelu_mlp(width, shape.decoder_width, 2)


def sva(shape: Shape, ratio: int, options: Any) -> int:
    """With a projection of the tower of its own; sva_connector of the same levels and width lends it its own."""
    return _tower_projections(shape, options) + options.count * _sampler_layer(shape.decoder_width, ratio, options)


def _tower_projections(shape: Shape, options: Any) -> int:
    width = options.width
    return len(options.levels) * (gelu_mlp(shape.tower_width, width, 2) + layer_norm(width))


def _sampler_layer(query_width: int, ratio: int, options: Any) -> int:
    width, towers = options.width, len(options.levels)
    normed = layer_norm(width) + linear(width, width, bias=False)
    lifts = linear(width, width, bias=False) + linear(query_width + width, width, bias=False)
    cross = (1 + 2 * towers) * normed + linear(width, width, bias=False)
    places = towers * ratio * width if ratio > 1 else 0
    out = linear(width, width, bias=False) + linear(width, query_width, bias=False)
    return lifts + cross + places + layer_norm(width) + out


def vision_remember(shape: Shape, ratio: int, options: Any) -> int:
    width = shape.decoder_width
    levels = 1 if options.fusion == "last" else len(options.levels)
    per_level = options.fusion == "per_level"
    cells = (isqrt(ratio) + 2 * options.halo) ** 2 if options.scope == "local" else shape.grid**2
    source = shape.tower_width * (1 if per_level else levels)
    slots = cells * levels if per_level else cells
    square = linear(width, width, bias=False)
    cross = width + 2 * square + linear(source, 2 * width, bias=False) + slots * width
    mixing = width + 4 * square
    block = (cross if options.order != "self_only" else 0) + (mixing if options.order != "cross_only" else 0)
    return len(options.layers) * (block + (width + 8 * square if options.ffn else 0))


def deepstack(shape: Shape, ratio: int, options: Any) -> int:
    own = options.place == "decoder" and not options.shared
    return gelu_mlp(shape.tower_width, shape.decoder_width, 2) if own else 0
