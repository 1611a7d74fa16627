"""How answers are generated: what a grid may say of it, what wins over what, and what it names."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.config.grid_texts import PRODUCT
from vr_eval.config.decoding import NEW_TOKENS, Decoding, Rules, given_decoding
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id, cell_identity
from vr_eval.errors import InputError
from vr_eval.runs.plan import plan_grid

Load = Callable[..., Grid]
REAL = "name: a\nbackbone: llava_1_5_7b\ntasks: [ocrbench]\ncells: [{projector: mlp}]\n"


@pytest.mark.parametrize(
    ("kwargs", "changed"),
    [
        ({}, {}),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, {}),
        ({"temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}, {}),
        ({"temperature": 0, "top_p": 0}, {}),
        ({"do_sample": True, "temperature": 0}, {}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"temperature": 0.7, "top_p": 0.9, "top_k": None}, {"temperature": 0.7, "top_p": 0.9}),
        ({"num_beams": 3, "length_penalty": 2}, {"num_beams": 3, "length_penalty": 2.0}),
        ({"repetition_penalty": 1.2, "max_new_tokens": 7}, {"repetition_penalty": 1.2, "max_new_tokens": 7}),
        ({"num_beams": None, "temperature": None, "image_aspect_ratio": "pad"}, {}),
    ],
)
def test_what_a_task_asks_for_is_done_and_the_rest_is_greedy_without_penalties(
    kwargs: dict[str, object], changed: dict[str, object]
) -> None:
    assert Decoding().rules("t", kwargs) == Rules(**changed)  # type: ignore[arg-type]
    assert Rules().max_new_tokens == NEW_TOKENS


def test_what_the_grid_says_wins_over_the_task() -> None:
    asked = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": 16, "until": ["."]}
    rules = Decoding(temperature=0.0, max_new_tokens=5).rules("t", asked)
    assert (rules.temperature, rules.max_new_tokens, rules.until) == (0.0, 5, (".",))
    assert not rules.samples
    assert Decoding(temperature=0.5).rules("t", {"do_sample": False}).samples


@pytest.mark.parametrize(
    ("decoding", "kwargs", "message"),
    [
        (Decoding(num_beams=4), {"temperature": 0.7}, "the task t: a beam search draws nothing: num_beams above 1"),
        (Decoding(min_new_tokens=9), {"max_new_tokens": 4}, "the task t: min_new_tokens 9 is more than max_new_tokens"),
        (Decoding(), {"max_new_tokens": "many"}, "generation_kwargs.max_new_tokens: the task t asks for what cannot"),
        (Decoding(), {"temperature": 1, "top_p": 7}, "generation_kwargs.top_p: the task t asks for what cannot be"),
    ],
)
def test_a_task_that_asks_for_what_cannot_be_is_an_error(
    decoding: Decoding, kwargs: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        decoding.rules("t", kwargs)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("until", "expected"),
    [(None, "four\n\nor five."), ("\n\n", "four"), (["", "."], "four\n\nor five"), (["five", "or"], "four\n\n")],
)
def test_an_answer_ends_before_the_first_stop_text(until: object, expected: str) -> None:
    assert Decoding().rules("t", {"until": until}).cut("four\n\nor five.") == expected


def test_a_grid_says_it_once_for_all_cells(load: Load) -> None:
    grid = load(f"{PRODUCT}decoding: {{temperature: 1, top_p: 0.9}}\n", "decoding.top_k=40")
    assert grid.decoding == Decoding(temperature=1.0, top_p=0.9, top_k=40)
    assert load(grid.to_yaml()) == grid
    assert load(f"{PRODUCT}decoding: {{top_k: null}}\n").decoding == load(PRODUCT, "decoding=null").decoding
    assert "decoding" not in load(PRODUCT).to_yaml()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("7", "decoding: must be a mapping (given: 7; allowed: temperature, top_p,"),
        ("{temperatur: 1}", "did you mean 'temperature'?"),
        ("{temperature: -1}", "decoding.temperature: this value does not fit (given: -1; allowed: a number from 0 to"),
        ("{top_p: 0}", "decoding.top_p: this value does not fit"),
        ("{num_beams: 2.5}", "decoding.num_beams: this value does not fit"),
        ("{repetition_penalty: 0}", "allowed: a number above 0"),
        ("{max_new_tokens: true}", "decoding.max_new_tokens: this value does not fit"),
        ("{num_beams: 4, temperature: 0.5}", "decoding.num_beams: a beam search draws nothing"),
        ("{min_new_tokens: 9, max_new_tokens: 8}", "decoding.min_new_tokens: min_new_tokens 9 is more than"),
        ("{temperature: 0, top_k: 5}", "decoding.top_k: nothing is drawn at temperature 0"),
        ("{num_beams: 1, length_penalty: 2}", "decoding.length_penalty: it scores beams, and num_beams is 1"),
        ("{no_repeat_ngram_size: 1}", "decoding.no_repeat_ngram_size: 1 would forbid every token of the question"),
    ],
)
def test_what_cannot_be_or_does_nothing_is_refused_at_its_line(
    written: str, message: str, refused: Callable[..., str]
) -> None:
    said = refused(f"{PRODUCT}decoding: {written}\n")
    assert message in said
    assert said.startswith("grid.yaml:12: decoding")


def test_values_that_are_the_default_may_be_written_out(load: Load) -> None:
    assert load(f"{PRODUCT}decoding: {{temperature: 0, top_p: 1, top_k: 0, num_beams: 1, length_penalty: 1}}\n")


def test_results_are_named_by_it(load: Load) -> None:
    grid = load(PRODUCT)
    cell = grid.cells[0]
    assert "decoding" not in cell_identity(cell, grid)  # of the shipped cells, whose rules were these before
    others = [load(PRODUCT, f"decoding.{key}") for key in ("temperature=0", "repetition_penalty=1.2", "num_beams=2")]
    assert len({cell_id(cell, grid), *(cell_id(cell, other) for other in others)}) == 4


def test_results_of_real_backbones_always_state_it(load: Load, resources: object) -> None:
    grid = load(REAL)
    assert cell_identity(grid.cells[0], grid)["decoding"] == {}


def test_the_plan_says_it(load: Load) -> None:
    said = plan_grid(load(PRODUCT)).to_text()
    assert "\ndecoding: what the task asks for, else greedy and no penalties\n" in said
    text = plan_grid(load(PRODUCT, "decoding.temperature=0.7")).to_text()
    assert "\ndecoding: temperature 0.7; for the rest what the task asks for, else greedy and no penalties\n" in text


def test_arguments_of_another_harness_are_checked_alike() -> None:
    made = given_decoding({"temperature": 0, "num_beams": 2}, "--model_args", ["dtype"])
    assert made == Decoding(temperature=0.0, num_beams=2)
    with pytest.raises(InputError) as caught:
        given_decoding({"temprature": 0, "top_k": -1, "dtipe": 3}, "--model_args", ["dtype"])
    said = str(caught.value)
    assert "--model_args: temprature: unknown key (allowed: dtype, temperature, top_p" in said
    assert "did you mean 'dtype'?" in said
    assert "--model_args: top_k: this value does not fit (given: -1; allowed: a whole number from 0" in said
