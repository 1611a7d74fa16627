"""Messages that are kept for the next cell."""

from __future__ import annotations

import pytest
from PIL import Image

from vr_eval.adapters.kept_messages import TEXT_BYTES, KeptMessages
from vr_eval.adapters.questions import Messages, Question

SIDE = 32
EACH = TEXT_BYTES + 3 * SIDE * SIDE


def question(number: int, loads: list[int]) -> Question:
    def load() -> Messages:
        loads.append(number)
        image = Image.new("RGB", (SIDE, SIDE), (number, 0, 0))
        return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "which?"}]}]

    return Question("task", number, "which?", {}, load)


def test_a_question_is_loaded_once_while_it_fits() -> None:
    loads: list[int] = []
    kept = KeptMessages(2 * EACH)
    for number in (0, 1, 0, 1):
        (said,) = kept.of(question(number, loads))
        assert said["content"][0]["image"].getpixel((0, 0)) == (number, 0, 0)
    assert loads == [0, 1]
    kept.of(question(0, loads))
    kept.of(question(2, loads))  # 1 was used least recently
    kept.of(question(0, loads))
    kept.of(question(1, loads))
    assert loads == [0, 1, 2, 1]


def test_without_room_nothing_is_kept() -> None:
    loads: list[int] = []
    kept = KeptMessages(0)
    for _ in range(3):
        kept.of(question(0, loads))
    assert loads == [0, 0, 0]
    assert not kept._kept
    assert kept._held == 0


def test_what_cannot_be_loaded_is_tried_again() -> None:
    def broken() -> Messages:
        raise OSError("truncated")

    kept = KeptMessages()
    for _ in range(2):
        with pytest.raises(OSError, match="truncated"):
            kept.of(Question("task", 0, "which?", {}, broken))
    assert not kept._kept
