"""The numbers of parameters that `vr-eval list methods` shows are those of the modules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from vr_eval.methods.base import Shapes
from vr_eval.methods.registry import METHODS
from vr_eval.models.methods import build_method

SMALL = Shapes(grid=12, tower_width=96, tower_depth=4, select_layer=4, decoder_width=128, decoder_depth=40, stride=1)
LARGE = Shapes(
    grid=24, tower_width=1024, tower_depth=24, select_layer=23, decoder_width=4096, decoder_depth=32, stride=1
)
ALIKE = replace(SMALL, decoder_width=96)
"""A resampler has nothing to lift here."""
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "mlp": [{"depth": 1}, {"depth": 4}],
    "avg_pool": [{"depth": 3}],
    "pixel_shuffle": [{"depth": 1}],
    "tokenpacker": [{"levels": (1,)}],
    "c_abstractor": [{"depth": 1, "mlp_depth": 3}, {"width": 64}],
    "sva_connector": [{"depth": 1, "levels": (2, 4)}, {"width": 64}],
    "vision_remember": [
        {"halo": 1, "fusion": "per_level"},
        {"fusion": "last", "order": "self_first", "ffn": True},
        {"scope": "global"},
        {"scope": "global", "fusion": "per_level"},
        {"order": "cross_only"},
        {"order": "self_only", "layers": (0,)},
    ],
    "deepstack": [{"shared": True}, {"stacks": "crops"}, {"stacks": "crops", "place": "tower"}],
    "sva": [{"levels": (1, 2), "width": 64}, {"count": 2, "stride": 1}],
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shapes", [SMALL, LARGE, ALIKE], ids=["small", "large", "alike"])
def test_the_formula_counts_what_the_module_holds(name: str, shapes: Shapes) -> None:
    method = METHODS[name]
    for given in [{}, *OPTIONS.get(name, [])]:
        for ratio in (1, 4, 9):
            if ratio not in method.ratios(shapes.grid) and name != "downsample":
                continue
            sized = replace(shapes, stride=round(ratio**0.5))
            options = method.options(**given).resolve(sized)
            if options.ratio_faults(sized, ratio):
                continue
            with torch.device("meta"):
                module = build_method(name, sized, options)
            held = sum(parameter.numel() for parameter in module.parameters())
            assert method.parameters(sized, ratio, options) == held, (given, ratio)
