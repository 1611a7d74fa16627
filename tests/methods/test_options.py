"""Defaults are the official ones, and factors are those that fit a grid."""

from __future__ import annotations

from math import floor
from pathlib import Path
from typing import Any

import pytest

from vr_eval.config.grid import load_grid
from vr_eval.errors import InputError
from vr_eval.methods.base import Shapes
from vr_eval.methods.downsample.spec import downsample_factors
from vr_eval.methods.options import head_faults
from vr_eval.methods.registry import METHODS
from vr_eval.methods.vision_remember.spec import insertion_layers

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

BORDERS: dict[str, dict[str, list[tuple[Any, Any]]]] = {
    "mlp": {"depth": [(0, 1), (9, 8)]},
    "avg_pool": {"depth": [(0, 1), (9, 8)]},
    "pixel_shuffle": {"depth": [(0, 1), (9, 8)]},
    "tokenpacker": {"heads": [(0, 1), (5, 4)], "levels": [([-1], [0]), ([5], [4]), ([2, 1], [1, 2])]},
    "resampler": {"heads": [(0, 1), (7, 8)]},
    "c_abstractor": {"depth": [(0, 1), (17, 16)], "mlp_depth": [(0, 1), (9, 8)], "width": [(0, 1)]},
    "sva_connector": {
        "depth": [(0, 1), (17, 16)],
        "levels": [([-1], [0]), ([5], [4])],
        "width": [(0, 16)],
        "heads": [(0, 1)],
    },
    "sva": {
        "start": [(-1, 0), (3, 2)],
        "stride": [(0, 1)],
        "count": [(0, 1), (4, 3)],
        "levels": [([-1], [0]), ([5], [4])],
        "width": [(0, 16)],
        "heads": [(0, 1)],
    },
    "deepstack": {
        "start": [(-1, 0)],
        "interval": [(0, 1)],
        "crops": [(3, 4)],
        "stacks": [("tiles", "grid")],
        "place": [("projector", "decoder")],
    },
    "vision_remember": {
        "levels": [([-1], [0]), ([5], [4])],
        "layers": [([-1], [0]), ([4], [3])],
        "halo": [(-1, 0), (12, 11)],
        "heads": [(0, 1), (5, 4)],
        "fusion": [("first", "concat"), ("all", "per_level"), ("top", "last")],
        "scope": [("window", "local"), ("all", "global")],
        "text_guide": [("first", "mean"), ("median", "last"), (0, "none")],
        "order": [("both", "cross_first"), ("first", "self_first"), ("cross", "cross_only"), ("self", "self_only")],
    },
    "fastv": {
        "layer": [(0, 1), (4, 3)],
        "keep_ratio": [(0, 0.01), (1.01, 1)],
        "query": [("first", "last"), ("all", "mean")],
        "mode": [("keep", "drop"), ("hide", "mask")],
    },
    "random": {"layer": [(0, 1), (4, 3)], "keep_ratio": [(0, 0.01), (1.01, 1)], "seed": [(-1, 0), (2**32, 2**32 - 1)]},
    "downsample": {"factor": [(1, 2), (5, 6), (12, 6)]},
}
"""Just outside of what makes sense, and just inside, of 12 x 12 patches and 4 layers each side."""


@pytest.mark.parametrize(
    ("name", "key", "outside", "inside"),
    [(name, key, *border) for name, keys in BORDERS.items() for key, borders in keys.items() for border in borders],
)
def test_what_makes_no_sense_is_refused(name: str, key: str, outside: Any, inside: Any, tmp_path: Path) -> None:
    method, file = METHODS[name], tmp_path / "grid.yaml"
    row = f"projector: mlp, {method.seam}: {name}"
    if method.seam == "projector":
        row = f"projector: {name}, ratio: {1 if name == 'mlp' else 4}"
    text = f"name: a\nbackbone: micro\ncells:\n- {{{row}, {name}.{key}: %s}}\n"
    file.write_text(text % outside)
    with pytest.raises(InputError) as caught:
        load_grid(str(file))
    assert len([line for line in str(caught.value).splitlines() if f"{name}.{key}" in line]) == 1
    file.write_text(text % inside)
    assert len(load_grid(str(file)).cells) == 1


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_defaults_are_those_of_the_official_code(name: str) -> None:
    options = METHODS[name].options().resolve(CLIP_AND_VICUNA)
    assert {key: getattr(options, key) for key in OFFICIAL[name]} == OFFICIAL[name]
    assert options.faults(CLIP_AND_VICUNA) == ()


def test_refusion_stands_evenly_spaced_over_the_first_two_thirds() -> None:
    for depth in range(3, 81):
        layers = insertion_layers(depth)
        wanted = 4 if depth >= 24 else max(2, round(depth / 6))
        last = floor(2 * depth / 3 - 1 + 0.5)
        assert list(layers) == [floor(last * i / (wanted - 1) + 0.5) for i in range(wanted)]
    assert insertion_layers(1) == insertion_layers(2) == (0,)


def test_heads_that_would_divide_a_width_are_named() -> None:
    (fault,) = head_faults(5, 12, "a width")
    assert fault.allowed == "1, 2, 3, 4, 6, 12"
    assert head_faults(4, 12, "a width") == ()


def test_a_factor_leaves_a_whole_grid_of_two_by_two_or_more() -> None:
    for grid in range(1, 40):
        fitting = [factor for factor in range(2, grid + 1) if grid / factor in range(2, grid)]
        assert list(downsample_factors(grid)) == fitting
