from __future__ import annotations

import pytest

from vr_eval.adapters.questions import DEFAULT_NEW_TOKENS, Decoding, Question


def ask(prompt: str = "How many?", **kwargs: object) -> Question:
    return Question("vr_toy_ocr", 3, prompt, kwargs, list)


@pytest.mark.parametrize(
    ("kwargs", "sampling"),
    [
        ({}, {}),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, {}),
        ({"temperature": 0}, {}),
        ({"do_sample": True, "temperature": 0}, {}),
        ({"temperature": 0.7, "top_p": 0.9, "top_k": None}, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}),
        ({"num_beams": 3}, {"num_beams": 3}),
        ({"num_beams": None, "temperature": None, "image_aspect_ratio": "pad"}, {}),
    ],
)
def test_decoding_is_greedy_unless_a_temperature_says_otherwise(kwargs: dict, sampling: dict) -> None:
    decoding = Decoding.of(kwargs)
    assert (decoding.sampling, decoding.max_new_tokens) == (sampling, DEFAULT_NEW_TOKENS)


@pytest.mark.parametrize(
    ("until", "expected"),
    [(None, "four\n\nor five."), ("\n\n", "four"), (["", "."], "four\n\nor five"), (["five", "or"], "four\n\n")],
)
def test_an_answer_ends_before_the_first_stop_text(until: object, expected: str) -> None:
    assert Decoding.of({"until": until}).cut("four\n\nor five.") == expected


def test_the_key_changes_with_the_prompt_and_the_decoding_and_with_nothing_else() -> None:
    assert ask(max_new_tokens=4, until=["."]).key == ask(until=["."], max_new_tokens=4).key
    assert len({ask().key, ask("How many \ud800?").key, ask(max_new_tokens=4).key, ask(max_new_tokens=5).key}) == 4
