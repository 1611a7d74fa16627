"""Projectors without official reference outputs compute what loops over patches and tokens compute, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods import reference_projectors as reference
from tests.methods.scene import SHAPES as SCENE
from tests.methods.scene import Scene
from vr_eval.methods.base import Shapes, VisionFeatures
from vr_eval.methods.registry import METHODS
from vr_eval.methods.resampler.module import resized_positions
from vr_eval.models.methods import build_method

CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("mlp", 1, {}),
    ("mlp", 1, {"depth": 1}),
    ("mlp", 1, {"depth": 4}),
    ("avg_pool", 1, {}),
    ("avg_pool", 2, {"depth": 3}),
    ("avg_pool", 3, {"depth": 1}),
    ("pixel_shuffle", 2, {}),
    ("pixel_shuffle", 3, {"depth": 1}),
    ("ldpv2", 1, {}),
    ("ldpv2", 2, {}),
    ("ldpv2", 3, {}),
    ("resampler", 1, {"heads": 1}),
    ("resampler", 2, {"heads": 4}),
    ("resampler", 3, {}),
    ("c_abstractor", 2, {}),
    ("c_abstractor", 1, {"depth": 1, "mlp_depth": 1}),
    ("c_abstractor", 3, {"depth": 2, "mlp_depth": 3, "width": 12}),
    ("sva_connector", 2, {"heads": 2}),
    ("sva_connector", 3, {"depth": 1, "levels": (0, 4), "heads": 4}),
    ("sva_connector", 1, {"levels": (4, 3), "width": 12, "heads": 1, "depth": 2}),
]
"""Names, linear compressions and options."""


@pytest.mark.parametrize("decoder_width", [8, 16])  # 8: as wide as the tower
@pytest.mark.parametrize(("name", "stride", "options"), CASES)
@torch.no_grad()
def test_every_token_is_what_the_loops_find(
    name: str, stride: int, options: dict[str, Any], decoder_width: int
) -> None:
    shapes = Shapes(
        grid=6,
        tower_width=8,
        tower_depth=4,
        select_layer=3,
        decoder_width=decoder_width,
        decoder_depth=4,
        stride=stride,
    )
    chosen = METHODS[name].options(**options).resolve(shapes)
    projector = build_method(name, shapes, chosen).double().eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in projector.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    levels = (0, 3, 4)
    maps = torch.randn(2, 36, 3, 8, generator=generator, dtype=torch.float64)
    weights = {key: value.numpy() for key, value in projector.state_dict().items()}
    for version in ("training", "inference"):
        got = projector(VisionFeatures(maps, levels))
        for image in range(2):
            cells = maps[image, :, 1].numpy()  # hidden state 3
            if name == "resampler":
                positions = reference.sine_cosine(6 // stride, decoder_width)
                stretched = resized_positions(torch.from_numpy(positions), 6).numpy()
                expected = reference.resampler(cells, weights, chosen.heads, stretched, positions)
            elif name == "c_abstractor":
                expected = reference.c_abstractor(cells, weights, 6, stride, chosen.depth)
            elif name == "sva_connector":
                read = [maps[image, :, levels.index(level)].numpy() for level in chosen.levels]
                expected = reference.sva_connector(read, weights, 6, stride, chosen.depth, chosen.heads)
            else:
                expected = getattr(reference, name)(cells, weights, 6, stride)
            atol = 1e-5 if name == "resampler" else 1e-10  # its positions are kept in float32
            np.testing.assert_allclose(got[image].numpy(), expected, atol=atol, rtol=0, err_msg=version)
        projector.to_inference()


@pytest.mark.parametrize(("point", "side"), [(0, "left"), (1, "right")])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("levels", [(4,), (3, 0)])
@torch.no_grad()
def test_sva_between_the_layers_is_what_the_loops_find(
    stride: int, levels: tuple[int, ...], point: int, side: str
) -> None:
    shapes = replace(SCENE, stride=stride)
    options = METHODS["sva"].options(levels=levels, heads=2, start=1, stride=1, count=2, width=6)
    module = build_method("sva", shapes, options).double().eval()
    assert module.layers == (1, 2)
    generator = torch.Generator().manual_seed(4)
    for parameter in module.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    weights = {key: value.numpy() for key, value in module.state_dict().items()}
    scene, start = Scene(shapes, side), f"vision_sampler_layers.{point}.layers.0."
    layer = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
    towers = {key.removeprefix("towers."): value for key, value in weights.items() if key.startswith("towers.")}

    def found(features: dict[int, Any], tokens: dict[int, Any], asked: list[Any]) -> dict[int, Any]:
        context, windows = reference.sva_windows([features[i] for i in levels], towers, 6, stride)
        return {
            place: reference.sva_layer(token, context, [tower[place] for tower in windows], layer, 2)
            for place, token in tokens.items()
        }

    expected = scene.expected(found)
    torch.testing.assert_close(scene.got(module, point), expected, atol=1e-10, rtol=0)
    module.to_inference()
    torch.testing.assert_close(scene.got(module, point), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("stride", "point"), [(s, p) for s in (1, 2, 3) for p in range(s * s)])
@torch.no_grad()
def test_deepstack_adds_the_stacks_that_the_loops_find(stride: int, point: int) -> None:
    shapes = replace(SCENE, stride=stride, decoder_depth=9)
    module = build_method("deepstack", shapes, METHODS["deepstack"].options(start=0)).double().eval()
    weights = {key: value.numpy() for key, value in module.state_dict().items()}
    assert module.layers == tuple(range(-1, stride**2 - 1))
    scene = Scene(shapes, "left" if point % 2 else "right")

    def found(features: dict[int, Any], tokens: dict[int, Any], asked: list[Any]) -> dict[int, Any]:
        projected = reference.mlp(features[4], weights, 6, 1)
        changed = {}
        for place, token in tokens.items():
            y, x = place // (6 // stride), place % (6 // stride)
            row, column = y * stride + point // stride, x * stride + point % stride
            changed[place] = token + projected[row * 6 + column]
        return changed

    torch.testing.assert_close(scene.got(module, point), scene.expected(found), atol=1e-10, rtol=0)
