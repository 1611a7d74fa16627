from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import LlavaProcessor

from tests.adapters.world import png
from vr_eval.adapters import answering
from vr_eval.adapters.answering import Answerer, CellError, prepare
from vr_eval.adapters.questions import Answer, Messages, Question
from vr_eval.models.features import ImageEncoder
from vr_eval.models.lvlm import LVLM
from vr_eval.training.templates import encode

GOOD = Answer("", 1.0, 1)
WORDS = ["which", "code", "is", "printed", "here"]


def messages(text: str, *seeds: int) -> Messages:
    images = [{"type": "image", "image": Image.open(io.BytesIO(png(seed)))} for seed in seeds]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def question(number: int, *seeds: int, task: str = "vr_toy_ocr", load: Any = None, **kwargs: Any) -> Question:
    text = " ".join(WORDS[: 1 + number % 5]) + f" {number}?"
    return Question(task, number, text, {"max_new_tokens": 6} | kwargs, load or (lambda: messages(text, *seeds)))


def mixed() -> list[Question]:
    """Questions of two tasks and two decodings, of many lengths, with one image, several or none."""
    questions = [question(number, number // 2) for number in range(7)]
    questions += [question(number, 50 + number, task="vr_toy_doc", max_new_tokens=9) for number in range(5)]
    return [*questions, question(7), question(8, 1, 2), question(9, 3, 4, 5, max_new_tokens=9)]


def broken(error: Exception) -> Callable[[], Messages]:
    def load() -> Messages:
        raise error

    return load


def texts(answers: Sequence[Answer]) -> list[str]:
    return [answer.text for answer in answers]


@pytest.fixture(scope="module")
def alone(lvlm: LVLM, reader: LlavaProcessor) -> list[Answer]:
    """The answers to `mixed()` one by one."""
    return Answerer(lvlm, reader, batch_size=1).answer(mixed())


@pytest.mark.parametrize("batch_size", [3, 8, 64])
def test_answers_do_not_depend_on_the_batch(
    lvlm: LVLM, reader: LlavaProcessor, alone: list[Answer], batch_size: int
) -> None:
    asked = mixed()[::-1]
    answers = Answerer(lvlm, reader, batch_size=batch_size).answer(asked)
    assert texts(answers[::-1]) == texts(alone)
    assert [a.new_tokens for a in answers[::-1]] == [a.new_tokens for a in alone]
    assert len(set(texts(alone))) > len(alone) / 2  # a model that says one thing would prove nothing


def test_answers_say_whether_other_workers_may_have_shared_the_machine(lvlm: LVLM, reader: LlavaProcessor) -> None:
    asked = [question(0, 0), question(1, 1)]
    assert [answer.shared for answer in Answerer(lvlm, reader, shared=True).answer(asked)] == [True, True]
    assert [answer.shared for answer in Answerer(lvlm, reader).answer(asked)] == [False, False]


def test_the_prompt_is_the_one_of_training(lvlm: LVLM, reader: LlavaProcessor) -> None:
    asked = prepare(messages("which code?", 0), reader, lvlm)
    trained = encode(reader.tokenizer, [("which code?", "42")], lvlm.tokens_per_image)
    assert asked.ids == trained.input_ids[: trained.labels.index(next(t for t in trained.labels if t >= 0))]


def test_a_question_that_names_the_image_token_shows_no_further_image(lvlm: LVLM, reader: LlavaProcessor) -> None:
    asked = prepare(messages("what is <image> here?", 0), reader, lvlm)
    assert asked.ids.count(reader.image_token_id) == lvlm.tokens_per_image


def test_a_question_that_cannot_be_loaded_fails_alone(lvlm: LVLM, reader: LlavaProcessor, alone: list[Answer]) -> None:
    asked = mixed()
    asked[3] = question(3, load=broken(OSError("image file is truncated\nmore")))
    answers = Answerer(lvlm, reader, batch_size=8).answer(asked)
    assert answers[3].failure == "OSError: image file is truncated"
    assert answers[3].text == ""
    assert texts(answers[:3] + answers[4:]) == texts(alone[:3] + alone[4:])


def test_a_question_that_cannot_be_answered_fails_alone(
    lvlm: LVLM, reader: LlavaProcessor, alone: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = prepare(messages(mixed()[6].prompt, 3), reader, lvlm).ids
    generate = LVLM.generate

    def fails_on_poison(self: LVLM, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        if any(row[-len(poison) :] == poison for row in input_ids.tolist()):
            raise ValueError("no such token")
        return generate(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(LVLM, "generate", fails_on_poison)
    answers = Answerer(lvlm, reader, batch_size=8).answer(mixed())
    assert [i for i, answer in enumerate(answers) if answer.failure] == [6]
    assert answers[6].failure == "ValueError: no such token"
    assert texts(answers[:6] + answers[7:]) == texts(alone[:6] + alone[7:])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),  # torch's own
    ],
    ids=lambda error: type(error).__name__,
)
def test_running_out_of_memory_halves_the_batch(
    error: Exception, lvlm: LVLM, reader: LlavaProcessor, alone: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    generate = LVLM.generate

    def small_memory(self: LVLM, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise error
        return generate(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(LVLM, "generate", small_memory)
    answers = Answerer(lvlm, reader, batch_size=8).answer(mixed())
    assert texts(answers) == texts(alone)
    assert sizes[:3] == [8, 4, 2] or sizes[:3] == [6, 3, 2]


def test_memory_that_images_take_halves_the_batch_too_and_what_never_fits_is_no_answer(
    lvlm: LVLM, reader: LlavaProcessor, alone: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ImageEncoder.read

    def small_memory(self: ImageEncoder, samples: Any) -> Any:
        if sum(map(len, samples)) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(self, samples)

    monkeypatch.setattr(ImageEncoder, "read", small_memory)
    most = 3
    assert texts(Answerer(lvlm, reader, batch_size=8).answer(mixed())) == texts(alone)
    most = 0
    answers = Answerer(lvlm, reader, batch_size=8).answer(mixed())
    for answer, right in zip(answers, alone, strict=True):
        assert answer.text == right.text or answer.failure == "OutOfMemoryError: CUDA out of memory"
    assert {bool(answer.failure) for answer in answers} == {True, False}


def test_a_model_that_fails_on_everything_ends_the_cell_after_a_few_questions(
    lvlm: LVLM, reader: LlavaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def bug(self: LVLM, **kwargs: Any) -> Any:
        calls.append(1)
        raise KeyError("keys")

    monkeypatch.setattr(LVLM, "generate", bug)
    with pytest.raises(CellError, match="all of the first 20 questions failed: KeyError") as caught:
        Answerer(lvlm, reader, batch_size=16).answer([question(n, 0) for n in range(200)])
    assert len(calls) < 30
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_few_questions_that_all_fail_are_an_error_too(lvlm: LVLM, reader: LlavaProcessor) -> None:
    asked = [question(n, load=broken(OSError("no such image"))) for n in range(3)]
    with pytest.raises(CellError, match="all of the first 3 questions failed: OSError: no such image"):
        Answerer(lvlm, reader, batch_size=2).answer(asked)


def test_failures_of_several_kinds_are_not_one_fault_of_the_model(
    lvlm: LVLM, reader: LlavaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "HOPELESS", 3)
    kinds = [OSError("gone"), ValueError("no image"), OSError("gone"), KeyError("image")]
    answers = Answerer(lvlm, reader).answer([question(n, load=broken(kind)) for n, kind in enumerate(kinds)])
    assert all(answer.failure for answer in answers)


def test_many_failures_after_an_answer_end_nothing(
    lvlm: LVLM, reader: LlavaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "HOPELESS", 3)
    longest = question(1004, 1)  # the longest question is asked first
    asked = [longest, *(question(n, load=broken(OSError("gone"))) for n in range(8))]
    answers = Answerer(lvlm, reader, batch_size=1).answer(asked)
    assert sum(bool(answer.failure) for answer in answers) == 8


def test_generation_kwargs_stay_as_they_are(lvlm: LVLM, reader: LlavaProcessor) -> None:
    kwargs = {"max_new_tokens": 3, "until": ["\n"], "temperature": 0, "do_sample": False}
    asked = Question("vr_toy_ocr", 0, "which", kwargs, lambda: messages("which", 0))
    Answerer(lvlm, reader).answer([asked])
    assert kwargs == {"max_new_tokens": 3, "until": ["\n"], "temperature": 0, "do_sample": False}


def test_progress_counts_every_question_once(lvlm: LVLM, reader: LlavaProcessor) -> None:
    heard: list[int] = []
    Answerer(lvlm, reader, batch_size=4).answer(mixed(), heard.append)
    assert sum(heard) == len(mixed())


def test_an_answer_counts_its_tokens_up_to_the_end_of_the_turn_and_its_share_of_the_time(
    lvlm: LVLM, reader: LlavaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = reader.tokenizer.eos_token_id
    words = [token for token in reader.tokenizer.encode("which code", add_special_tokens=False) if token != end]

    def generate(input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        ends, goes_on = [words[0], words[0], end, words[0], end], words[:1] * 5
        return torch.cat([input_ids, torch.tensor([ends, goes_on])], dim=1)

    monkeypatch.setattr(lvlm, "generate", generate)
    monkeypatch.setattr(answering, "time", SimpleNamespace(perf_counter=iter([3.0, 3.5]).__next__))
    first, second = Answerer(lvlm, reader, batch_size=2).answer([question(0), question(1)])
    assert {first.new_tokens, second.new_tokens} == {3, 5}
    assert (first.latency_ms, second.latency_ms) == (250.0, 250.0)  # each question's share of the batch


class Kept:
    """A log in memory, and how many answers it was handed at a time."""

    def __init__(self) -> None:
        self.answers: dict[object, Answer] = {}
        self.sizes: list[int] = []

    def get(self, question: Question) -> Answer | None:
        answer = self.answers.get(question.key)
        return None if answer is None or answer.failure else answer

    def failed(self, question: Question) -> bool:
        return bool(self.answers.get(question.key, GOOD).failure)

    def add(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        self.sizes.append(len(questions))
        self.answers |= {asked.key: answer for asked, answer in zip(questions, answers, strict=True)}


def test_answers_are_kept_batch_by_batch_and_not_asked_for_again(
    lvlm: LVLM, reader: LlavaProcessor, alone: list[Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Kept()
    Answerer(lvlm, reader, batch_size=3, log=log).answer(mixed()[:8])
    assert sum(log.sizes) == 8
    assert max(log.sizes) == 3
    heard: list[int] = []
    answers = Answerer(lvlm, reader, batch_size=4, log=log).answer(mixed(), heard.append)
    assert texts(answers) == texts(alone)
    assert heard[0] == 8
    assert sum(log.sizes) == len(mixed())
    monkeypatch.setattr(lvlm, "generate", None)  # nothing is left to ask
    assert texts(Answerer(lvlm, reader, log=log).answer(mixed())) == texts(alone)
