"""What each stage trains and what it leaves alone, by name, number and rate."""

from __future__ import annotations

import dataclasses

import pytest

from vr_eval.catalog.frozen import FrozenDict
from vr_eval.catalog.recipe import Recipe, SecondStage, Stage
from vr_eval.config.cell import Cell
from vr_eval.testing.cases import one_each
from vr_eval.testing.tiny import tiny_lvlm
from vr_eval.training.stages import describe, stages_of

RECIPE = Recipe(lr_projector=0.01, stage1=Stage(steps=3), stage2=SecondStage(steps=5, lr_decoder=0.002))


def cell(projector: str, ratio: int, refusion: str = "none", recipe: Recipe = RECIPE, **options: object) -> Cell:
    return Cell("micro", projector, ratio, refusion, "none", 0, {refusion: options} if options else {}, recipe)


@pytest.mark.parametrize(("projector", "ratio"), one_each())
@pytest.mark.parametrize("lr_tower", [0.0, 1e-5])
def test_every_parameter_belongs_to_one_part_of_each_stage(projector: str, ratio: int, lr_tower: float) -> None:
    refusion = "none" if projector == "resampler" else "vision_remember"
    model = tiny_lvlm(projector, ratio, refusion)
    recipe = dataclasses.replace(RECIPE, stage2=dataclasses.replace(RECIPE.stage2, lr_tower=lr_tower))
    first, second = stages_of(cell(projector, ratio, refusion, recipe), model)
    for stage in (first, second):
        held = [id(parameter) for part in stage.parts for parameter in part.parameters]
        assert len(held) == len(set(held))
        assert set(held) == {id(parameter) for parameter in model.parameters()}
    methods = [f"projector {projector}"] + ([] if refusion == "none" else [f"refusion {refusion}"])
    assert [(part.name, part.lr) for part in first.trained] == [(name, 0.01) for name in methods]
    wanted = [(name, 0.01) for name in methods] + [("decoder", 0.002)]
    assert [(part.name, part.lr) for part in second.trained] == wanted + ([("vision tower", 1e-5)] if lr_tower else [])
    assert (first.needs_pixels, second.needs_pixels) == (False, lr_tower > 0)


def test_a_method_without_parameters_of_its_own_is_no_part() -> None:
    stages = stages_of(cell("mlp", 1, "deepstack"), tiny_lvlm("mlp", 1, "deepstack", stacks="crops", place="tower"))
    assert [part.name for part in stages[0].parts] == ["projector mlp", "decoder", "vision tower"]


def test_the_newline_of_tiles_learns_with_the_decoder() -> None:
    model = tiny_lvlm("mlp", 1, tiling={"pinpoints": [[96, 96]], "limit": None, "lone": False})
    first, second = stages_of(cell("mlp", 1), model)
    assert "newline between tiles" not in [part.name for part in first.trained]
    assert "newline between tiles" in [part.name for part in second.trained]


def test_what_is_printed_names_parts_numbers_and_rates() -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember")
    lines = describe(stages_of(cell("avg_pool", 4, "vision_remember"), model)).splitlines()
    projector = sum(parameter.numel() for parameter in model.projector.parameters())
    assert lines[0] == "stage 1: 3 steps"
    assert lines[1].split() == ["projector", "avg_pool", f"{projector:,}", "parameters", "learning", "rate", "0.01"]
    assert [line.split()[-1] for line in lines[3:5]] == ["frozen", "frozen"]
    assert lines[5] == "stage 2: 5 steps"
    assert lines[8].split()[0] == "decoder"
    assert lines[8].endswith("learning rate 0.002")
    assert lines[9].endswith("frozen")


def test_a_method_may_learn_at_a_rate_of_its_own() -> None:
    recipe = dataclasses.replace(RECIPE, lr_methods=FrozenDict(avg_pool=0.5))
    asked = cell("avg_pool", 4, "vision_remember", recipe)
    model = tiny_lvlm("avg_pool", 4, "vision_remember")
    first, second = stages_of(asked, model)
    assert [part.lr for part in first.trained] == [0.5, 0.01]
    assert [part.lr for part in second.trained] == [0.5, 0.01, 0.002]


@pytest.mark.parametrize("number", [1, 2])
def test_a_rate_of_a_stage_wins_over_those_of_single_methods_there_alone(number: int) -> None:
    own = dataclasses.replace(RECIPE.stage(number), lr_projector=0.1)
    recipe = dataclasses.replace(RECIPE, lr_methods=FrozenDict(avg_pool=0.5), **{f"stage{number}": own})
    stages = stages_of(cell("avg_pool", 4, "vision_remember", recipe), tiny_lvlm("avg_pool", 4, "vision_remember"))
    rates = [[part.lr for part in stage.trained][:2] for stage in stages]
    assert rates[number - 1] == [0.1, 0.1]
    assert rates[2 - number] == [0.5, 0.01]


def test_a_batch_of_a_stage_is_its_own_or_the_recipes() -> None:
    recipe = Recipe(batch_size=4, stage1=Stage(batch_size=8))
    assert (recipe.batch(1), recipe.batch(2)) == (8, 4)
    recipe = Recipe(batch_size=4, stage2=SecondStage(batch_size=8))
    assert (recipe.batch(1), recipe.batch(2)) == (4, 8)
