from __future__ import annotations

import dataclasses
import importlib
from math import isqrt

import pytest

from vr_eval import paths
from vr_eval.catalog.backbones import MICRO
from vr_eval.catalog.fields import allowed_of, checked, info_of
from vr_eval.methods.options import levels_at, square_ratios, stride
from vr_eval.methods.registry import METHODS, PACKAGES, projectors, prunings, refusions
from vr_eval.methods.tokenpacker.spec import TOKENPACKER_LEVELS, TokenPackerOptions
from vr_eval.methods.vision_remember.spec import VISION_REMEMBER_LEVELS, VisionRememberOptions, insertion_layers

DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 18, 22, 24, 26, 27, 28, 32, 40, 80)


def test_a_tower_of_24_layers_gives_exactly_the_official_levels() -> None:
    assert levels_at(24, TOKENPACKER_LEVELS) == (12, 16, 22, 23)
    assert levels_at(24, VISION_REMEMBER_LEVELS) == (13, 18, 23)


@pytest.mark.parametrize(
    ("depth", "levels"), [(4, (2, 3, 4)), (12, (7, 9, 12)), (27, (15, 20, 26)), (2, (1, 2)), (1, (1,))]
)
def test_other_depths_give_the_same_fractions_rounded_half_up_each_once(depth: int, levels: tuple[int, ...]) -> None:
    assert levels_at(depth, VISION_REMEMBER_LEVELS) == levels


@pytest.mark.parametrize("depth", DEPTHS)
def test_levels_rise_and_stay_inside_the_tower(depth: int) -> None:
    for official in (TOKENPACKER_LEVELS, VISION_REMEMBER_LEVELS):
        levels = levels_at(depth, official)
        assert list(levels) == sorted(set(levels))
        assert all(0 <= level <= depth for level in levels)


@pytest.mark.parametrize(
    ("depth", "layers"), [(24, (0, 5, 10, 15)), (4, (0, 2)), (32, (0, 7, 13, 20)), (2, (0,)), (1, (0,)), (12, (0, 7))]
)
def test_insertion_points_are_evenly_spaced_over_the_first_two_thirds(depth: int, layers: tuple[int, ...]) -> None:
    assert insertion_layers(depth) == layers


@pytest.mark.parametrize("depth", DEPTHS)
def test_insertion_points_rise_and_stay_in_the_first_two_thirds(depth: int) -> None:
    layers = insertion_layers(depth)
    assert layers[0] == 0
    assert list(layers) == sorted(set(layers))
    assert layers[-1] <= max(0, 2 * depth / 3)
    assert len(layers) == 4 if depth >= 24 else 1 <= len(layers) <= 4


def test_resolving_fills_every_open_option_and_keeps_given_ones() -> None:
    assert VisionRememberOptions().resolve(MICRO) == VisionRememberOptions(levels=(2, 3, 4), layers=(0, 2))
    assert VisionRememberOptions(levels=(1,)).resolve(MICRO).levels == (1,)
    assert TokenPackerOptions().resolve(MICRO).levels == (2, 3, 4)
    for method in METHODS.values():
        resolved = method.options().resolve(MICRO)
        assert None not in vars(resolved).values()
        assert resolved.faults(MICRO) == ()


@pytest.mark.parametrize("name", METHODS)
def test_every_option_explains_itself_and_has_a_valid_default(name: str) -> None:
    for field in dataclasses.fields(METHODS[name].options):
        info = info_of(field)
        assert info.help
        assert info.source in ("paper", "official code", "ours")
        assert checked(METHODS[name].options, field.name, field.default) == field.default
        assert allowed_of(METHODS[name].options, field.name)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_names_its_source(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    assert method.version >= 1
    assert method.link.rpartition("/")[2] in method.source
    assert {source for source, _ in method.details} <= {"paper", "official code", "ours"}


def test_methods_are_listed_by_seam() -> None:
    assert set(projectors()) >= {"mlp", "avg_pool", "pixel_shuffle", "tokenpacker"}
    assert "vision_remember" in refusions()
    assert not set(projectors()) & {*refusions(), *prunings()}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_registered_class_exists(name: str) -> None:
    assert hasattr(importlib.import_module(METHODS[name].module), METHODS[name].cls)


def test_ratios_are_the_squares_that_divide_the_grid() -> None:
    assert square_ratios(12) == (1, 4, 9, 16, 36, 144)
    assert square_ratios(24) == (1, 4, 9, 16, 36, 64, 144, 576)
    for grid in (12, 24, 27):
        for ratio in square_ratios(grid):
            assert METHODS["avg_pool"].options().tokens(grid, ratio) * ratio == grid * grid
            assert stride(grid, ratio) == isqrt(ratio)


@pytest.mark.parametrize("ratio", [0, -4, 2, 5, 25])
def test_other_ratios_have_no_stride(ratio: int) -> None:
    with pytest.raises(ValueError, match=f"1/{ratio} does not divide a 12x12"):
        stride(12, ratio)


def test_every_folder_of_a_method_is_registered() -> None:
    folders = {file.parent.name for file in (paths.PACKAGE / "methods").glob("*/spec.py")}
    assert folders == set(METHODS) - set(PACKAGES)
    assert all(
        METHODS[name].name == name and METHODS[name].module == f"vr_eval.methods.{name}.module" for name in folders
    )
