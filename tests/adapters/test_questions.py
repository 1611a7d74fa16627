from __future__ import annotations

from vr_eval.adapters.questions import Question


def ask(prompt: str = "How many?", **kwargs: object) -> Question:
    return Question("vr_toy_ocr", 3, prompt, kwargs, list)


def test_the_key_changes_with_the_prompt_and_the_decoding_and_with_nothing_else() -> None:
    assert ask(max_new_tokens=4, until=["."]).key == ask(until=["."], max_new_tokens=4).key
    assert len({ask().key, ask("How many \ud800?").key, ask(max_new_tokens=4).key, ask(max_new_tokens=5).key}) == 4
