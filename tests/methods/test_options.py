"""Defaults are the official ones, and factors are those that fit a grid."""

from __future__ import annotations

from typing import Any

import pytest

from vr_eval.methods.base import Shapes
from vr_eval.methods.options.pruning import downsample_factors
from vr_eval.methods.registry import METHODS

CLIP_AND_VICUNA = Shapes(
    grid=24, tower_width=1024, tower_depth=24, select_layer=23, decoder_width=4096, decoder_depth=32, stride=2
)
OFFICIAL: dict[str, dict[str, Any]] = {
    "mlp": {"depth": 2},
    "avg_pool": {"depth": 2},
    "pixel_shuffle": {"depth": 2},
    "tokenpacker": {"levels": (12, 16, 22, 23), "heads": 8},
    "resampler": {"heads": 32},
    "c_abstractor": {"depth": 3, "mlp_depth": 2, "width": 1024},
    "sva_connector": {"depth": 3, "levels": (23,), "width": 1024, "heads": 16},
    "sva": {"start": 0, "stride": 3, "count": 10, "levels": (23,), "width": 1024, "heads": 16},
    "deepstack": {"start": 1, "interval": 1, "crops": 4, "shared": False},
    "vision_remember": {"levels": (13, 18, 23), "halo": 0, "heads": 8, "ffn": False, "zero_init": True},
    "fastv": {"layer": 2, "keep_ratio": 0.5, "query": "last", "mode": "drop"},
    "random": {"layer": 2, "keep_ratio": 0.5, "seed": 0},
    "downsample": {"factor": 2},
}
"""On CLIP-ViT-L/14-336 and a decoder of 32 layers."""


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_defaults_are_those_of_the_official_code(name: str) -> None:
    options = METHODS[name].options().resolve(CLIP_AND_VICUNA)
    assert {key: getattr(options, key) for key in OFFICIAL[name]} == OFFICIAL[name]
    assert options.faults(CLIP_AND_VICUNA) == ()


def test_a_factor_leaves_a_whole_grid_of_two_by_two_or_more() -> None:
    for grid in range(1, 40):
        fitting = [factor for factor in range(2, grid + 1) if grid / factor in range(2, grid)]
        assert list(downsample_factors(grid)) == fitting
