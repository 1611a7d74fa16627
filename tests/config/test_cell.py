from __future__ import annotations

import json
import pickle

import pytest

from vr_eval.catalog.frozen import FrozenDict
from vr_eval.catalog.recipe import Recipe
from vr_eval.config.cell import Cell


def make(projector: str = "tokenpacker", ratio: int = 4, refusion: str = "none", **options: dict[str, object]) -> Cell:
    return Cell("micro", projector, ratio, refusion, "none", 0, options, Recipe())


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        (make("mlp", 1), "mlp"),
        (make("avg_pool", 1), "avg_pool 1/1"),
        (make(), "tokenpacker 1/4"),
        (make(refusion="vision_remember"), "tokenpacker 1/4 + vision_remember"),
        (
            make(refusion="vision_remember", vision_remember={"scope": "global", "ffn": True, "layers": (1, 2)}),
            "tokenpacker 1/4 + vision_remember [ffn=true, layers=[1,2], scope=global]",
        ),
        (
            make(refusion="vision_remember", vision_remember={"levels": (1,)}),
            "tokenpacker 1/4 + vision_remember [vision_remember.levels=[1]]",
        ),
    ],
)
def test_a_label_says_what_differs_from_the_default(cell: Cell, label: str) -> None:
    assert cell.label == label


def test_cells_can_be_hashed_pickled_and_written_as_json() -> None:
    cell = make(refusion="vision_remember", vision_remember={"halo": 1, "levels": (1, 2)})
    assert pickle.loads(pickle.dumps(cell)) == cell
    assert len({cell, pickle.loads(pickle.dumps(cell))}) == 1
    assert json.dumps(cell.options) == '{"vision_remember": {"halo": 1, "levels": [1, 2]}}'
    assert cell.row()["vision_remember.levels"] == [1, 2]


def test_options_of_a_cell_are_resolved_for_its_backbone() -> None:
    assert make().resolved("tokenpacker").levels == (2, 3, 4)  # type: ignore[attr-defined]
    assert make(tokenpacker={"levels": (1,)}).resolved("tokenpacker").levels == (1,)  # type: ignore[attr-defined]


def test_options_of_a_method_that_the_cell_does_not_use_are_a_bug() -> None:
    with pytest.raises(ValueError, match="vision_remember, which this cell does not use"):
        make(vision_remember={"halo": 1})


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(a=2),
        lambda d: d.__setitem__("a", 2),
        lambda d: d.pop("a"),
        lambda d: d.clear(),
        lambda d: d.__delitem__("a"),
        lambda d: d.setdefault("b", 1),
        lambda d: d.__ior__({"b": 1}),
        lambda d: d.popitem(),
    ],
)
def test_a_frozen_dict_cannot_be_changed(change: object) -> None:
    frozen = FrozenDict(a=1)
    with pytest.raises(TypeError, match="cannot be changed"):
        change(frozen)  # type: ignore[operator]
    assert frozen == {"a": 1}
