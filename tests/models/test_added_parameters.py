"""What a method adds to a backbone is counted from its module, without weights."""

from __future__ import annotations

import pytest

from vr_eval.catalog.backbones import BACKBONES, MICRO
from vr_eval.listing import list_methods
from vr_eval.methods.registry import METHODS
from vr_eval.models.methods import added_parameters

LLAVA = BACKBONES["llava_1_5_7b"]


@pytest.mark.parametrize(
    ("name", "ratio", "count"),
    [
        ("mlp", 1, 1024 * 4096 + 4096 + 4096 * 4096 + 4096),
        ("pixel_shuffle", 4, 2 * 4096 + 2 * (4096 * 4096 + 4096)),
        ("ldpv2", 4, 1024 * 4096 + 4096 + 4096 * 4096 + 4096 + 10 * 4096),
        ("downsample", 4, 0),
        ("fastv", 1, 0),
    ],
)
def test_counts_are_those_worked_out_by_hand(name: str, ratio: int, count: int) -> None:
    assert added_parameters(name, LLAVA, ratio, METHODS[name].options().resolve(LLAVA)) == count


def test_the_list_counts_parameters_where_it_is_asked_to() -> None:
    plain, counted = list_methods("micro"), list_methods("micro", parameters=True)
    assert "parameters" not in plain
    assert counted.count("\n  parameters") == len(METHODS)
    own = added_parameters("mlp", MICRO, 1, METHODS["mlp"].options().resolve(MICRO))
    assert f"parameters     {own:,}, at every ratio" in counted
