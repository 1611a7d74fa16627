"""What is not text is a broken sample, in JSON as in a table; it is never taken for text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vr_eval.training.typed import BrokenSample, Dialogue, dialogue_of, name_of, parsed


def said(*texts: Any) -> list[dict[str, Any]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def record(**changed: Any) -> dict[str, Any]:
    return {"id": "a", "image": "a.png", "conversations": said("<image>what?", "that"), **changed}


NO_TEXT = "a turn says something that is no text"
NO_SPEAKER = "a turn does not say in text who speaks"
NO_TURNS = "the conversation is no list of turns"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        *((record(conversations=said("what?", value)), NO_TEXT) for value in (None, 7, 1.5, True, ["a"], {"a": "b"})),
        (record(conversations=said(None, "that")), NO_TEXT),
        (record(conversations=[{"from": "human"}, {"from": "gpt", "value": "that"}]), NO_TEXT),
        (record(conversations=[{"from": "system", "value": None}, *said("what?", "that")]), NO_TEXT),
        *((record(conversations=[{"from": who, "value": "a"}]), NO_SPEAKER) for who in (None, 1, ["human"])),
        (record(conversations=[{"value": "a"}]), NO_SPEAKER),
        (record(conversations=["what?", "that"]), NO_TURNS),
        (record(conversations=[None]), NO_TURNS),
        (record(conversations="what? that"), NO_TURNS),
        (record(conversations=7), NO_TURNS),
        (record(conversations={"from": ["human", "gpt"], "value": ["what?"]}), NO_TURNS),
        (record(conversations={"from": ["human", "gpt"], "value": ["what?", None]}), NO_TEXT),
        (record(conversations=None), "the conversation is empty"),
        ({"id": "a"}, "the conversation is empty"),
        (record(conversations=said("a \ud83d of two", "that")), "a turn holds half a character"),
        *((record(image=image), "an image is no path") for image in (7, 1.5, True, {}, {"a": 1}, {"path": "a.png"})),
        *((record(images=images), "an image is no path") for images in ([None], ["a.png", 7], [[]], [""])),
        (record(image="\ud800.png"), "an image is no path"),
        (record(image={"bytes": "text", "path": None}), "an image is no path"),
        *((value, "it is no object with conversations") for value in (None, 7, "text", [record()])),
    ],
)
def test_what_is_not_text_is_broken(broken: Any, words: str) -> None:
    for value in (broken, parsed(json.dumps(broken).encode())):
        with pytest.raises(BrokenSample, match=words):
            dialogue_of(value)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ({"image": "a.png"}, ("a.png",)),
        ({"image": ["a.png", "b.png"]}, ("a.png", "b.png")),
        ({"images": [{"bytes": b"1", "path": "a.png"}, {"bytes": None, "path": "b.png"}, b"2"]}, (b"1", "b.png", b"2")),
        ({"image": None, "images": []}, ()),
        ({"image": "", "images": {"bytes": None, "path": None}}, ()),
        ({}, ()),
    ],
)
def test_images_of_every_form(images: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert dialogue_of({"conversations": said("what?", "that"), **images}).images == expected


def test_a_list_for_each_key_is_the_same_conversation() -> None:
    listed = {"from": ["system", "human", "gpt"], "value": ["be brief", " what? ", "that"]}
    expected = Dialogue((("what?", "that"),), "be brief", ())
    assert dialogue_of({"conversations": listed}) == expected
    turns = [{"from": who, "value": text} for who, text in zip(*listed.values(), strict=True)]
    assert dialogue_of({"conversations": turns}) == expected


@pytest.mark.parametrize(
    ("who", "turns"),
    [
        ("hghg", 2),
        ("ghg", 1),
        ("hgh", 1),
        ("sghgh", 1),
        ("", "the conversation is empty"),
        ("gh", "the conversation is empty"),
        ("s", "the conversation is empty"),
        ("hhgg", "questions and answers do not alternate"),
        ("hgg", "questions and answers do not alternate"),
        ("hshg", "questions and answers do not alternate"),
    ],
)
def test_whole_turns_are_taken_from_between_the_ends(who: str, turns: int | str) -> None:
    names = {"h": "human", "g": "gpt", "s": "system"}
    given = {"conversations": [{"from": names[one], "value": f"{one}{place}"} for place, one in enumerate(who)]}
    if isinstance(turns, str):
        with pytest.raises(BrokenSample, match=turns):
            dialogue_of(given)
        return
    found = dialogue_of(given)
    assert len(found.turns) == turns
    assert all(question[0] == "h" and answer[0] == "g" for question, answer in found.turns)
    assert found.system == ("s0" if who[0] == "s" else "")


def test_an_answer_must_say_something_and_a_question_need_not() -> None:
    assert dialogue_of(record(conversations=said("", "that"))).turns == (("", "that"),)
    with pytest.raises(BrokenSample, match="an answer is empty"):
        dialogue_of(record(conversations=said("what?", " \n")))


@pytest.mark.parametrize(
    ("given", "name"),
    [("a", "a"), (7, "7"), (None, "3"), ("", "3"), (True, "3"), ([1], "3"), ({"a": 1}, "3"), ("\ud83d!", "\\ud83d!")],
)
def test_an_id_is_a_name_and_may_be_a_number(given: Any, name: str) -> None:
    assert name_of({"id": given}, 3) == name
    assert name_of([given], 3) == "3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "a number that is too long"),
        (b'{"id": ', "it is no JSON"),
        (b'"\xff"', "it is no UTF-8 text"),
    ],
)
def test_text_that_cannot_be_parsed(text: bytes, words: str) -> None:
    with pytest.raises(BrokenSample, match=words):
        parsed(text)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=3))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
TURNS = st.fixed_dictionaries(
    {}, optional={"from": st.sampled_from(["human", "gpt", "system", None]) | VALUES, "value": st.text() | VALUES}
)
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "id": VALUES,
        "image": st.text(max_size=5) | VALUES,
        "images": st.lists(st.text(max_size=5)) | VALUES,
        "conversations": st.lists(TURNS, max_size=4) | VALUES,
    },
)


@given(RECORDS | VALUES)
def test_any_record_is_a_dialogue_of_its_own_texts_or_broken(given: Any) -> None:
    try:
        dialogue = dialogue_of(given)
    except BrokenSample:
        return
    finally:
        assert name_of(given, 3).encode()
    texts = {text.strip() for turn in given["conversations"] for text in turn.values() if isinstance(text, str)}
    assert {text for turn in dialogue.turns for text in turn} <= texts
    assert all(isinstance(image, str | bytes) and image != "" for image in dialogue.images)
