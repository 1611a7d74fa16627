from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.grid_texts import MINIMAL
from vr_eval.catalog.recipe import STAGES, SecondStage, Stage
from vr_eval.config.grid import Grid
from vr_eval.config.identity import flat_name

Load = Callable[..., Grid]
Refused = Callable[..., str]

FLAT = """\
recipe:
  warmup: 0.1
  stage2_data: "me/data@v1"
  lr_decoder: 2e-5
  stage1_steps: 300
  lr_projector_stage2: null
"""


def test_a_flat_recipe_is_refused_with_all_its_keys_and_what_to_write_instead(load: Load, refused: Refused) -> None:
    message = refused(MINIMAL + FLAT)
    first = len(MINIMAL.splitlines()) + 3
    found = re.findall(r"^grid.yaml:(\d+): recipe\.(\w+): .*\(given: (.*)\)$", message, re.MULTILINE)
    assert found == [
        (str(first), "stage2_data", "'me/data@v1'"),
        (str(first + 1), "lr_decoder", "2e-05"),
        (str(first + 2), "stage1_steps", "300"),
        (str(first + 3), "lr_projector_stage2", "None"),
    ]
    written = re.findall(r"Write `(.*)`", message)
    recipe = load(MINIMAL + "recipe:\n  warmup: 0.1\n" + "".join(f"  {line}\n" for line in written)).recipe
    assert recipe.warmup == 0.1
    assert recipe.stage1 == Stage(steps=300)
    assert recipe.stage2 == SecondStage(data="me/data@v1", lr_decoder=2e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_no_key_of_a_stage_is_taken_beside_it(stage: str, refused: Refused) -> None:
    for field in dataclasses.fields(STAGES[stage]):
        message = refused(f"{MINIMAL}recipe: {{{flat_name(stage, field.name)}: 1}}\n")
        assert f"Write `{stage}: {{{field.name}: 1}}`" in message


def test_a_flat_key_of_the_command_line_is_shown_as_it_is_set_there(load: Load, refused: Refused) -> None:
    message = refused(MINIMAL, "recipe.stage1_steps=300", "recipe.stage1_template=vicuna")
    written = re.findall(r"^--set: recipe\.stage1_\w+: .*\n    Write `(.*)`", message, re.MULTILINE)
    assert load(MINIMAL, *written).recipe.stage1 == Stage(steps=300, template="vicuna")


def test_a_recipe_file_that_is_flat_is_named(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "own.yaml").write_text("warmup: 0.1\nstage2_steps: 7\n")
    message = refused(MINIMAL + "recipe: {from: own.yaml, stage1_steps: 8}\n")
    assert re.search(r"own.yaml:2: recipe.stage2_steps: .*\n    Write `stage2: \{steps: 7\}`", message)
    assert "Write `stage1: {steps: 8}`" in message


def test_a_long_value_is_not_repeated(refused: Refused) -> None:
    message = refused(f"{MINIMAL}recipe: {{stage1_data: {'a' * 3000}, stage1_steps: 3}}\n")
    assert "Write `stage1: {data: .., steps: 3}`" in message
    assert len(message) < 1000


def test_keys_of_a_stage_stand_on_those_of_the_recipe_file_and_the_command_line_on_both(
    tmp_path: Path, load: Load
) -> None:
    (tmp_path / "own.yaml").write_text("stage1: {steps: 7, batch_size: 2}\nstage2: {steps: 8, lr_tower: 1e-6}\n")
    with (tmp_path / "own.yaml").open("a") as file:
        file.write("lr_methods: {mlp: 2e-3, avg_pool: 3e-3}\n")
    text = MINIMAL + "recipe: {from: own.yaml, stage1: {steps: 9, template: vicuna}}\n"
    recipe = load(text, "recipe.stage1.template=chatml", "recipe.lr_methods.mlp=1e-3").recipe
    assert recipe.stage1 == Stage(steps=9, batch_size=2, template="chatml")
    assert recipe.stage2 == SecondStage(steps=8, lr_tower=1e-6)
    assert (recipe.lr_methods["mlp"], recipe.lr_methods["avg_pool"]) == (1e-3, 3e-3)
