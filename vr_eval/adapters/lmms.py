"""Evaluation through lmms-eval: our chat model for it, and tasks run by it. Beside this file, only `lmms_tasks` and
`manifest` import it.

Plain `lmms-eval --model vr_eval --model_args pretrained=DIR` finds `VrEval` by an entry point. Our own runs hand it a
loaded model instead, call lmms-eval in this process one task at a time, and take each question's score from its log.
A shard is asked the same way, and lmms-eval stopped before it scores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from lmms_eval import evaluator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import simple_parse_args_string
from loguru import logger

from vr_eval.adapters import defects
from vr_eval.adapters.answering import Answerer
from vr_eval.adapters.data import document_hash
from vr_eval.adapters.ending import check_arguments, loud_ending
from vr_eval.adapters.lmms_tasks import LazyTask, quiet
from vr_eval.adapters.official import in_points, score_units
from vr_eval.adapters.questions import Answer, AnswerLog, Messages, Question
from vr_eval.adapters.results import TaskResult, scored
from vr_eval.catalog.backbone import Loading
from vr_eval.config.decoding import Decoding, given_decoding
from vr_eval.methods.method_file import load_methods
from vr_eval.models.checkpoints import open_model

REASONING_TAGS = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'
"""What lmms-eval's command line strips from answers by default; its Python API strips nothing."""

_ARGUMENTS = ("pretrained", "cell", "revision", "dtype", "device_map", "attention", "bits", "seed", "method_file")


class VrEval(lmms):
    """An LVLM as a chat model of lmms-eval.

    Attributes:
        log: Answers of earlier runs; None where there are none.
        batch_size: Questions answered at once.
        device: Where the model is.
        part: The places of the questions that are asked, and then `Answered` is raised; None: all are asked.
        answers: The answers of the last call by (task, question number), failures included.
        progress: Hears how many more questions are answered.
        ending: What is done where nothing can be answered; in our own runs the exception is theirs.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        cell: str = "",
        revision: str = "main",
        dtype: str = "float32",
        device_map: str | None = None,
        attention: str | None = None,
        bits: int | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        seed: int = 0,
        method_file: str | None = None,
        **decoding: Any,
    ) -> None:
        """What `--model_args` may hold. `cell` is used for nothing: lmms-eval's caches are keyed by these arguments.

        `pretrained` is a checkpoint's folder, or a LLaVA or InternVL one in a folder or on the hub (at `revision`); the
        others say how it is loaded (`catalog.backbone.Loading`) and how answers are generated: `temperature` and all
        other keys of `decoding` in a grid file, which win over what a task asks for (and over `--gen_kwargs`, which
        change that); `seed` counts where tokens are drawn; `method_file`, in which the checkpoint's method stands, is
        executed.

        Raises:
            InputError: there is no such checkpoint, it cannot be loaded, or an argument is unknown or does not fit.
        """
        rules = given_decoding(decoding, "--model_args", _ARGUMENTS)
        size = (max_batch_size or 32) if str(batch_size).startswith("auto") else int(batch_size)
        if method_file is not None:
            load_methods(method_file)
        loading = Loading(dtype, device_map, attention, bits)
        model, processor = open_model(pretrained, revision, loading)
        model.to_inference()
        if not loading.placed:
            model.to(_device(device))
        answerer = Answerer(model, processor, batch_size=size, decoding=rules, seed=seed)
        self._start(lambda: answerer, None, size, model.device)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> VrEval:
        """What lmms-eval's command calls; whatever fails from here on ends the process (`ending.py`)."""
        given: dict[str, Any] = simple_parse_args_string(arg_string)
        given |= {name: value for name, value in (additional_config or {}).items() if value is not None}
        with loud_ending():
            check_arguments(cls, given, [field.name for field in dataclasses.fields(Decoding)])
            made = cls(**given)
        made.ending = loud_ending
        return made

    @classmethod
    def around(cls, answerer: Answerer) -> VrEval:
        """A model for lmms-eval from one that is loaded."""
        return cls.late(lambda: answerer, answerer.log, answerer.batch_size, answerer.model.device)

    @classmethod
    def late(cls, load: Callable[[], Answerer], log: AnswerLog | None, batch_size: int, device: torch.device) -> VrEval:
        """One that is loaded when the first question comes that has no answer in `log`."""
        made = cls.__new__(cls)
        made._start(load, log, batch_size, device)
        return made

    def _start(
        self, load: Callable[[], Answerer], log: AnswerLog | None, batch_size: int, device: torch.device
    ) -> None:
        super().__init__()
        self._load, self.log, self.batch_size, self._at = load, log, batch_size, device
        self.part: Sequence[int] | None = None
        self.answers: dict[tuple[str, int], Answer] = {}
        self.progress: Callable[[int], None] = lambda answered: None
        self.ending: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext

    @cached_property
    def answerer(self) -> Answerer:
        """The model and how it is asked."""
        return self._load()

    @property
    def device(self) -> torch.device:
        return self._at

    def clean(self) -> None:
        """Keeps the model: lmms-eval's own version deletes it after every evaluation."""

    def release(self) -> None:
        """Let go of the model for good: functions inside lmms-eval keep this object until a garbage collection."""
        self.__dict__.pop("answerer", None)
        del self._load

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        with self.ending():
            questions = [self._question(*request.args) for request in requests]
            if self.part is not None:
                questions = [questions[place] for place in self.part if place < len(questions)]
            known = self._known(questions)
            answers = self.answerer.answer(questions, self.progress) if known is None else known
        if self.part is not None:
            raise Answered
        self.answers = {(q.task, q.doc_id): answer for q, answer in zip(questions, answers, strict=True)}
        failed = [answer.failure for answer in answers if answer.failure]
        if failed and self.log is None:  # plain lmms-eval has no place for failures: it scores an empty answer
            logger.warning(f"{len(failed)} of {len(answers)} questions failed; the first one: {failed[0]}")
        return [GenerationResult(answer.text, TokenCounts(output_tokens=answer.new_tokens)) for answer in answers]

    def _known(self, questions: Sequence[Question]) -> list[Answer] | None:
        """The answers where all are there, for which no model has to be loaded."""
        if self.log is None or "answerer" in self.__dict__:
            return None
        kept = [self.log.get(question) for question in questions]
        known = [answer for answer in kept if answer is not None]
        if len(known) < len(kept):
            return None
        self.progress(len(known))
        return known

    def _question(
        self,
        prompt: str,
        to_messages: Callable[..., Any],
        kwargs: Mapping[str, Any],
        doc_id: int,
        task: str,
        split: str,
    ) -> Question:
        def document() -> Any:
            return self.task_dict[task][split][doc_id]

        load, content = lambda: _messages(to_messages(document())), lambda: document_hash(document())
        return Question(task, doc_id, prompt, kwargs, load, content)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        with self.ending():
            raise NotImplementedError("log-likelihood tasks are broken in lmms-eval 0.7; use generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        with self.ending():
            raise NotImplementedError("tasks of several rounds are not supported")


class Answered(Exception):
    """The questions that were wanted are answered, and lmms-eval need not go on."""


def evaluate(lm: VrEval, task: LazyTask, limit: int | None, arguments: str) -> TaskResult:
    """Ask `lm` the first `limit` questions of `task` (None: all) and score its answers.

    `arguments` says what the model is, as on lmms-eval's command line; it goes into lmms-eval's output.

    Raises:
        CellError: nothing but failures of one kind, or a task without a number per question.
    """
    # Some official aggregations write files beside their result, and print.
    with quiet(), tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        given = Namespace(process_with_media=False, output_path=scratch, reasoning_tags=REASONING_TAGS)
        output = _simple_evaluate(lm, task, limit, arguments, given)
        name, spec = str(task.config.task), task.spec
        samples = defects.in_order(output.pop("samples")[name])
        if spec is None:
            questions = [scored(sample, task.metric, lm.answers[name, doc]) for doc, sample in samples.items()]
            return TaskResult(name, task.metric, tuple(questions), output)
        answers = {doc: lm.answers[name, doc] for doc in samples}
        questions = score_units(spec, samples, answers, task.aggregations, given, limited=limit is not None)
    official = in_points(spec, output["results"][name])
    return TaskResult(name, task.metric, tuple(questions), output, spec.metrics[0].pipeline, official)


def answer_part(lm: VrEval, task: LazyTask, limit: int | None, part: Sequence[int]) -> None:
    """Ask `lm` the questions of `task` at the places `part`, among the first `limit`; the answers are in its log.

    lmms-eval makes the questions, as for the whole, and comes no further.

    Raises:
        CellError: nothing but failures of one kind.
    """
    lm.part = part
    given = Namespace(process_with_media=False, output_path=None, reasoning_tags=REASONING_TAGS)
    with quiet(), contextlib.suppress(Answered):
        _simple_evaluate(lm, task, limit, "", given)
    lm.part = None


def _simple_evaluate(lm: VrEval, task: LazyTask, limit: int | None, arguments: str, given: Namespace) -> dict[str, Any]:
    output: dict[str, Any] = evaluator.simple_evaluate(
        model=lm,
        model_args=arguments,
        tasks=[task],
        limit=limit,
        bootstrap_iters=0,
        batch_size=lm.batch_size,
        device=str(lm.device),
        # Unused, as the task is loaded; without it, all of lmms-eval's own tasks would be read (6 s).
        task_manager=TaskManager(include_path=None, include_defaults=False),
        cli_args=given,
        process_docs_parallel=1,
    )
    return output


def _messages(given: Any) -> Messages:
    """lmms-eval's messages in Hugging Face's shape. Raises ValueError where they hold video or sound."""
    messages = ChatMessages(messages=given)
    _, videos, audios = messages.extract_media()
    if videos or audios:
        raise ValueError("this model reads images and text only")
    shaped: Messages = messages.to_hf_messages()
    return shaped


def _device(named: str | None) -> str:
    """The device of this process: every one of several gets a GPU of its own, also where `cuda` is asked for."""
    if torch.cuda.is_available() and named in (None, "cuda"):
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return named or "cpu"
