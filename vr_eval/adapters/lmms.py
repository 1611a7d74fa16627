"""Evaluation through lmms-eval: our chat model for it, and our tasks run by it. The only file that imports lmms-eval.

Plain `lmms-eval --model vr_eval --model_args pretrained=DIR` finds `VrEval` by an entry point. Our own runs hand it a
loaded model instead, call lmms-eval in this process one task at a time, and take each question's score from its log.
"""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from lmms_eval import evaluator
from lmms_eval.api import task as lmms_task
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.api.task import ConfigurableMessagesTask, ConfigurableTask
from lmms_eval.protocol import ChatMessages
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config
from loguru import logger
from tqdm import tqdm

from vr_eval.adapters.answering import Answerer
from vr_eval.adapters.data import check_files, no_data, whole_images
from vr_eval.adapters.questions import Answer, Messages, Question
from vr_eval.adapters.results import TaskResult, scored
from vr_eval.config.tasks import task_files
from vr_eval.errors import InputError, Problem, nearest
from vr_eval.models.checkpoints import load_checkpoint

REASONING_TAGS = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'
"""What lmms-eval's command line strips from answers by default; its Python API strips nothing."""


class VrEval(lmms):
    """An LVLM as a chat model of lmms-eval.

    Attributes:
        answerer: The model and how it is asked.
        answers: The answers of the last call by (task, question number), failures included.
        progress: Hears how many more questions are answered.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        cell: str = "",
        dtype: str = "float32",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """What `--model_args` may hold. `cell` is used for nothing: lmms-eval's caches are keyed by these arguments.

        Raises:
            InputError: there is no such checkpoint, or it cannot be loaded.
        """
        size = (max_batch_size or 32) if str(batch_size).startswith("auto") else int(batch_size)
        model, processor = load_checkpoint(Path(pretrained), dtype=getattr(torch, dtype))
        model.to_inference().to(device or _default_device())
        self._start(Answerer(model, processor, batch_size=size))

    @classmethod
    def around(cls, answerer: Answerer) -> VrEval:
        """A model for lmms-eval from one that is loaded."""
        made = cls.__new__(cls)
        made._start(answerer)
        return made

    def _start(self, answerer: Answerer) -> None:
        super().__init__()
        self.answerer = answerer
        self.answers: dict[tuple[str, int], Answer] = {}
        self.progress: Callable[[int], None] = lambda answered: None

    @property
    def device(self) -> torch.device:
        return self.answerer.model.device

    def clean(self) -> None:
        """Keeps the model: lmms-eval's own version deletes it after every evaluation."""

    def release(self) -> None:
        """Let go of the model for good: functions inside lmms-eval keep this object until a garbage collection."""
        del self.answerer

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        questions = [self._question(*request.args) for request in requests]
        answers = self.answerer.answer(questions, self.progress)
        self.answers = {(q.task, q.doc_id): answer for q, answer in zip(questions, answers, strict=True)}
        failed = [answer.failure for answer in answers if answer.failure]
        if failed and self.answerer.log is None:  # plain lmms-eval has no place for failures: it scores an empty answer
            logger.warning(f"{len(failed)} of {len(answers)} questions failed; the first one: {failed[0]}")
        return [GenerationResult(answer.text, TokenCounts(output_tokens=answer.new_tokens)) for answer in answers]

    def _question(
        self,
        prompt: str,
        to_messages: Callable[..., Any],
        kwargs: Mapping[str, Any],
        doc_id: int,
        task: str,
        split: str,
    ) -> Question:
        return Question(
            task, doc_id, prompt, kwargs, lambda: _messages(to_messages(self.task_dict[task][split][doc_id]))
        )

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("log-likelihood tasks are broken in lmms-eval 0.7; use generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("tasks of several rounds are not supported")


class LazyTask(ConfigurableMessagesTask):
    """A task whose images stay bytes until a question is asked, so that a corrupt image is one failed question.

    lmms-eval decodes question 0 when it builds a task, and tries a failing dataset or scorer five times, 2 s apart.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._images: set[str] = set()
        super().__init__(config=config, model_name="vr_eval")

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        ConfigurableTask.download.__wrapped__(self, dataset_kwargs)
        if getattr(self.config, "process_results_use_image", False):
            return
        for split, data in self.dataset.items():
            names = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
            for name in names:
                data = data.cast_column(name, datasets.Image(decode=False))
            self.dataset[split] = data
            self._images.update(names)

    def doc_to_messages(self, doc: dict[str, Any], **rounds: Any) -> Any:
        decode = datasets.Image().decode_example
        with whole_images():
            decoded = {name: decode(doc[name]) for name in self._images if doc.get(name) is not None}
        return super().doc_to_messages({**doc, **decoded}, **rounds)

    def process_results(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        scores: dict[str, Any] = ConfigurableTask.process_results.__wrapped__(self, *args, **kwargs)
        return scores

    @property
    def metric(self) -> str:
        """The metric that its score is the mean of: the first one that it lists."""
        return str(next(iter(self.config.metric_list))["metric"])


def load_tasks(names: Sequence[str]) -> dict[str, LazyTask]:
    """The tasks by name, with their data; they serve any number of evaluations.

    Raises:
        InputError: with every task that is not defined, or whose data cannot be loaded or is empty.
    """
    files, tasks, problems = task_files(), {}, []
    with quiet():
        for name in names:
            if name not in files:
                problems.append(Problem(f"no file defines the task {name}", nearest=nearest(name, files)))
                continue
            try:
                config = load_yaml_config(str(files[name]), mode="full")
                check_files(config, files[name].parent)
                tasks[name] = LazyTask(config)
            except (OSError, ValueError, IndexError, datasets.exceptions.DatasetsError) as error:
                problems.append(no_data(name, files[name], error))
    if problems:
        raise InputError(problems)
    return tasks


def evaluate(lm: VrEval, task: LazyTask, limit: int | None, arguments: str) -> TaskResult:
    """Ask `lm` the first `limit` questions of `task` (None: all) and score its answers.

    `arguments` says what the model is, as on lmms-eval's command line; it goes into lmms-eval's output.

    Raises:
        CellError: nothing but failures of one kind, or a task without a number per question.
    """
    with quiet():
        output = evaluator.simple_evaluate(
            model=lm,
            model_args=arguments,
            tasks=[task],
            limit=limit,
            bootstrap_iters=0,
            batch_size=lm.answerer.batch_size,
            device=str(lm.device),
            # Unused, as the task is loaded; without it, all of lmms-eval's own tasks would be read (6 s).
            task_manager=TaskManager(include_path=None, include_defaults=False),
            cli_args=Namespace(process_with_media=False, output_path=None, reasoning_tags=REASONING_TAGS),
            process_docs_parallel=1,
        )
    name, metric = str(task.config.task), task.metric
    samples = {int(sample["doc_id"]): sample for sample in reversed(output.pop("samples")[name])}
    questions = [scored(samples[doc], metric, lm.answers[name, doc]) for doc in sorted(samples)]
    return TaskResult(name, metric, tuple(questions), output)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lmms-eval without its chatter: warnings only, no bars, and nothing on stdout."""
    bars = datasets.are_progress_bars_disabled()
    saved = [(module, module.tqdm) for module in (evaluator, lmms_task)]
    logger.remove()
    handler = logger.add(sys.stderr, level="WARNING", format="lmms-eval: {message}")
    datasets.disable_progress_bars()
    for module, _ in saved:
        module.tqdm = _no_bar
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for module, original in saved:
            module.tqdm = original
        if not bars:
            datasets.enable_progress_bars()
        logger.remove(handler)
        logger.add(sys.stderr)


def _no_bar(*args: Any, **kwargs: Any) -> Any:
    return tqdm(*args, **{**kwargs, "disable": True})


def _messages(given: Any) -> Messages:
    """lmms-eval's messages in Hugging Face's shape. Raises ValueError where they hold video or sound."""
    messages = ChatMessages(messages=given)
    _, videos, audios = messages.extract_media()
    if videos or audios:
        raise ValueError("this model reads images and text only")
    shaped: Messages = messages.to_hf_messages()
    return shaped


def _default_device() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
