"""One record of training data as a dialogue, whatever form it came in: what is not text is never taken for text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

IMAGES = ("image", "images")
"""Where a record names its images."""


class BrokenSample(ValueError):
    """What is wrong with one conversation, in words that many can share."""


@dataclass(frozen=True)
class Dialogue:
    """One conversation; its questions say ``<image>`` where an image stands."""

    turns: tuple[tuple[str, str], ...]
    system: str
    images: tuple[str | bytes, ...]
    """Paths, or what the files hold."""


def parsed(text: bytes) -> Any:
    """A record that is written as JSON. Raises BrokenSample: it cannot be read."""
    try:
        return json.loads(text.decode("utf-8"))
    except RecursionError as error:
        raise BrokenSample("its JSON is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise BrokenSample("it is no UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise BrokenSample("it is no JSON") from error
    except ValueError as error:  # more digits than Python reads
        raise BrokenSample("it holds a number that is too long") from error


def dialogue_of(record: Any) -> Dialogue:
    """The conversation in one record, of JSON or of a table. Raises BrokenSample: it holds no whole one."""
    if not isinstance(record, dict):
        raise BrokenSample("it is no object with conversations")
    images = images_of(record)
    system, turns = _turns(_said(record.get("conversations")))
    return Dialogue(turns, system, images)


def images_of(record: dict[str, Any]) -> tuple[str | bytes, ...]:
    """The images that a record names or holds. Raises BrokenSample: one is neither a path nor a file's bytes."""
    found: list[str | bytes] = []
    for name in IMAGES:
        value = record.get(name)
        if isinstance(value, list):
            found += [_image(entry) for entry in value]
        elif not (value is None or value == "" or value == {"bytes": None, "path": None}):
            found.append(_image(value))
    return tuple(found)


def name_of(record: Any, row: int) -> str:
    """The `id` of a record where it is text or a number, else the number of its row."""
    given = record.get("id") if isinstance(record, dict) else None
    if isinstance(given, bool) or not isinstance(given, str | int | float) or given == "":
        return str(row)
    return str(given).encode("utf-8", "backslashreplace").decode()


def _image(value: Any) -> str | bytes:
    held, path = (value, None) if isinstance(value, bytes) else (None, value)
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:  # as the datasets library holds one
        held, path = value["bytes"], value["path"]
    if isinstance(held, bytes):
        return held
    if held is None and isinstance(path, str) and path and _is_unicode(path):
        return path
    raise BrokenSample("an image is no path")


def _said(conversation: Any) -> list[tuple[str, str]]:
    """Who speaks and what they say. Raises BrokenSample: something of it is no text."""
    if isinstance(conversation, dict):  # a list for each key: the datasets library's form of old
        whos, texts = conversation.get("from"), conversation.get("value")
        if not isinstance(whos, list) or not isinstance(texts, list) or len(whos) != len(texts):
            raise BrokenSample("the conversation is no list of turns")
        conversation = [{"from": who, "value": text} for who, text in zip(whos, texts, strict=True)]
    if conversation is None:
        raise BrokenSample("the conversation is empty")
    if not isinstance(conversation, list) or not all(isinstance(turn, dict) for turn in conversation):
        raise BrokenSample("the conversation is no list of turns")
    said = [(turn.get("from"), turn.get("value")) for turn in conversation]
    if not all(isinstance(who, str) for who, _ in said):
        raise BrokenSample("a turn does not say in text who speaks")
    if not all(isinstance(text, str) for _, text in said):
        raise BrokenSample("a turn says something that is no text")
    if not all(_is_unicode(text) for _, text in said):
        raise BrokenSample("a turn holds half a character (a lone surrogate)")
    return [(who, text.strip()) for who, text in said]


def _turns(said: list[tuple[str, str]]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The system's words and pairs of question and answer. Raises BrokenSample: not a whole conversation."""
    system = said.pop(0)[1] if said and said[0][0] == "system" else ""
    # Some conversations were cut at both ends; LLaVA leaves out what stands before the first question.
    if said and said[0][0] == "gpt":
        said.pop(0)
    if said and said[-1][0] == "human":
        said.pop()
    if not said:
        raise BrokenSample("the conversation is empty")
    if [who for who, _ in said] != ["human", "gpt"] * (len(said) // 2):
        raise BrokenSample("questions and answers do not alternate")
    if not all(text for who, text in said if who == "gpt"):
        raise BrokenSample("an answer is empty")
    return system, tuple((said[place][1], said[place + 1][1]) for place in range(0, len(said), 2))


def _is_unicode(text: str) -> bool:
    """Whether it can be stored and tokenised: JSON can spell halves of characters that are none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
