"""Answers questions with an LVLM: batched (`batches.py`), left-padded, kept batch by batch.

Notable:
- a batch holds questions of one decoding, whatever their tasks; every question brings its own images and messages;
- a question that fails (a corrupt image, an exception) is asked again alone and, if it fails again, recorded as failed;
  the others of its batch are unaffected;
- running out of memory halves the batch;
- when nothing but the same failure comes back, it is our bug or a broken model, and the cell ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from PIL.Image import Image
from torch import Tensor

from vr_eval.adapters.batches import in_batches, still_to_ask
from vr_eval.adapters.kept_messages import KeptMessages
from vr_eval.adapters.questions import Answer, AnswerLog, Messages, Question
from vr_eval.config.decoding import Decoding, Rules
from vr_eval.errors import VrEvalError
from vr_eval.measure.timing import finish
from vr_eval.models.chat import Chat
from vr_eval.models.feature_store import FeatureStore
from vr_eval.models.features import ImageEncoder, size_of
from vr_eval.models.generation import drawn_by, end_tokens, generation_config, seed_of
from vr_eval.models.lvlm import LVLM
from vr_eval.models.processor import Processor
from vr_eval.models.reading import upright
from vr_eval.models.text import tokens_of
from vr_eval.models.tiles import BASE_ONLY

HOPELESS = 20
"""So many first questions that all fail in the same way end the cell."""
_FAILURE_CHARACTERS = 500


class CellError(VrEvalError):
    """A cell cannot be evaluated; the other cells of its grid can."""


@dataclass(frozen=True)
class Prepared:
    """A question as the model reads it: token ids with every image spelled out, and its images in reading order."""

    ids: list[int]
    images: list[Image]
    seed: int = 0
    """Where tokens are drawn: whatever is asked beside it, a question is answered in the same way."""


class Answerer:
    """One model with what it needs to answer questions.

    Attributes:
        model: In its inference version.
        encoder: Images to features, through a store that other cells may share.
        batch_size: Questions answered at once.
        log: Keeps answers while the evaluation runs, and knows those of an earlier run.
        decoding: How answers are generated, over what a task asks for.
        seed: Of the cell, where tokens are drawn.
        shared: Other workers may be at work on this machine; its answers say so.
        begin: Where among the batches of a task it begins, 0 to 1: workers that begin at different places encode
            different images, and find those of the others when they come to them.
        messages: Those that cells asked before; default: none are kept.
    """

    def __init__(
        self,
        model: LVLM,
        processor: Processor,
        *,
        batch_size: int = 1,
        store: FeatureStore | None = None,
        log: AnswerLog | None = None,
        decoding: Decoding | None = None,
        seed: int = 0,
        shared: bool = False,
        begin: float = 0.0,
        messages: KeptMessages | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self.encoder = ImageEncoder(model, processor.image_processor, store or FeatureStore())
        self.batch_size = batch_size
        self.log = log
        self.decoding, self.seed = decoding or Decoding(), seed
        self.shared, self.begin = shared, begin
        self.messages = messages or KeptMessages(0)
        self._ends = end_tokens(model, processor)
        self._failures = _Failures(hopeless=True)

    def answer(self, questions: Sequence[Question], progress: Callable[[int], None] = lambda n: None) -> list[Answer]:
        """One answer per question, in their order; `progress` hears how many more are answered.

        Raises:
            InputError: a task asks for a decoding that cannot be.
            CellError: the first `HOPELESS` questions, or all if there are fewer, failed in the same way.
        """
        differing = {question.settings: question for question in questions}
        rules = {settings: self.decoding.rules(q.task, q.gen_kwargs) for settings, q in differing.items()}
        answers = {}
        for question in questions:
            kept = self.log.get(question) if self.log is not None else None
            if kept is not None:
                answers[question.key] = kept
        progress(sum(question.key in answers for question in questions))
        self._failures = _Failures(hopeless=not answers)
        batches = self._still_to_ask(questions, answers)
        first = int(self.begin * len(batches))
        for batch, answered in self._answered([*batches[first:], *batches[:first]], rules):
            new = [(q, answer) for q, answer in zip(batch, answered, strict=True) if q.key not in answers]
            if self.log is not None:
                self.log.add([question for question, _ in new], [answer for _, answer in new])
            answers |= {question.key: answer for question, answer in new}
            progress(len(new))
        self._failures.end()
        return [answers[question.key] for question in questions]

    def _still_to_ask(self, questions: Sequence[Question], answers: Container[object]) -> list[list[Question]]:
        batches = in_batches(questions, self.batch_size)
        if self.log is None:
            return batches
        failed = self.log.failed
        return [part for batch in batches for part in still_to_ask(batch, lambda q: q.key in answers, failed)]

    def _answered(
        self, batches: Sequence[list[Question]], rules: Mapping[str, Rules]
    ) -> Iterator[tuple[list[Question], list[Answer]]]:
        """Batches with their answers; while one is being answered, the next one's images are decoded."""
        with ThreadPoolExecutor(1, thread_name_prefix="vr-eval-prepare") as pool:
            ahead = [pool.submit(self._prepare_all, batch) for batch in batches[:1]]
            for number, batch in enumerate(batches):
                prepared = ahead.pop().result()
                ahead = [pool.submit(self._prepare_all, following) for following in batches[number + 1 : number + 2]]
                yield batch, self._answer_batch(prepared, rules[batch[0].settings])

    def _prepare_all(self, batch: Sequence[Question]) -> list[Prepared | Exception]:
        return [self._prepare(question) for question in batch]

    def _prepare(self, question: Question) -> Prepared | Exception:
        try:
            prepared = prepare(self.messages.of(question), self.processor, self.model)
            return replace(prepared, seed=seed_of(self.seed, question.key))
        except Exception as error:  # whatever a task's code or an image decoder raises is this one question's failure
            return error

    def _answer_batch(self, prepared: Sequence[Prepared | Exception], rules: Rules) -> list[Answer]:
        good = iter(self._generate([entry for entry in prepared if isinstance(entry, Prepared)], rules))
        return [next(good) if isinstance(entry, Prepared) else self._failed(entry) for entry in prepared]

    def _generate(self, prepared: list[Prepared], rules: Rules) -> list[Answer]:
        """Answers to questions of one decoding; smaller batches where one does not go through as a whole."""
        if not prepared:
            return []
        try:
            answers = self._generate_at_once(prepared, rules)
        except Exception as error:  # whatever the model raises is a failure of the questions that it raises it for
            if len(prepared) == 1:
                return [self._failed(error)]
            memory = _is_out_of_memory(error)
        else:
            self._failures.hopeless = False
            return answers
        # Outside of the handler: the exception's traceback holds the tensors that memory is needed for.
        if memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = math.ceil(len(prepared) / 2) if memory else 1
        parts = [prepared[start : start + size] for start in range(0, len(prepared), size)]
        return [answer for part in parts for answer in self._generate(part, rules)]

    def _generate_at_once(self, prepared: Sequence[Prepared], rules: Rules) -> list[Answer]:
        device, tokenizer = self.model.device, self.processor.tokenizer
        ids, mask = left_padded([entry.ids for entry in prepared], tokenizer.pad_token_id)
        vision = self.encoder.read([entry.images for entry in prepared])
        finish(device)
        started = time.perf_counter()
        generated = self.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=generation_config(rules, self._ends, tokenizer.pad_token_id),
            logits_processor=drawn_by(rules, [entry.seed for entry in prepared]),
            **vision,
        )
        finish(device)
        latency_ms = (time.perf_counter() - started) * 1000 / len(prepared)
        answers = []
        for row in generated[:, ids.shape[1] :].tolist():
            ended = (place for place, token in enumerate(row, start=1) if token in self._ends)
            length = next(ended, len(row))
            text = tokenizer.decode(row[:length], skip_special_tokens=True)
            answers.append(Answer(rules.cut(text), latency_ms, length, shared=self.shared))
        return answers

    def _failed(self, error: Exception) -> Answer:
        self._failures.add(error)
        return Answer("", math.nan, 0, _first_line(error))


class _Failures:
    """Notices when nothing but failures of one kind comes back."""

    def __init__(self, hopeless: bool) -> None:
        self.hopeless = hopeless
        self._first: Exception | None = None
        self._count = 0

    def add(self, error: Exception) -> None:
        """Raises CellError if this is failure number `HOPELESS`, all of one kind, and nothing was answered before."""
        self._first = self._first or error
        self._count += 1
        self.hopeless &= type(error) is type(self._first)
        if self._count >= HOPELESS:
            self.end()

    def end(self) -> None:
        """Raises CellError if every question so far failed in the same way."""
        if self.hopeless and self._first is not None:
            raise CellError(
                f"all of the first {self._count} questions failed: {_first_line(self._first)}"
            ) from self._first


def prepare(messages: Messages, processor: Processor, model: LVLM) -> Prepared:
    """Chat messages as token ids, in the format of training (models/chat.py).

    An image may be None in place of one that is not at hand: its base view.

    Raises:
        ValueError: the chat template does not show every image.
    """
    images = [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]
    images = [image if image is None else upright(image) for image in images]
    sizes = model.shown_sizes([BASE_ONLY if image is None else size_of(image) for image in images])
    pieces = Chat.of(processor).prompt(messages, model.image_tokens(sizes))
    return Prepared(tokens_of(processor.tokenizer, pieces).ids, images)


def left_padded(rows: Sequence[list[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask ``(B, S)``, padding on the left."""
    width = max(map(len, rows))
    ids = [[pad_token_id] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    message = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {message}"[:_FAILURE_CHARACTERS]
