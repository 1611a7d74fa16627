"""Tasks as lmms-eval's own objects: with their data, decoding images late, and without its chatter."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from lmms_eval import evaluator
from lmms_eval.api import task as lmms_task
from lmms_eval.api.task import ConfigurableMessagesTask, ConfigurableTask
from lmms_eval.protocol import ChatMessages
from lmms_eval.utils import load_yaml_config
from loguru import logger
from PIL.Image import Image
from tqdm import tqdm

from vr_eval.adapters import defects
from vr_eval.adapters.data import check_files, no_data, no_judge
from vr_eval.adapters.official import Aggregations, Document, MissingColumn, adapted, check
from vr_eval.catalog.official_tasks import OFFICIAL, OfficialTask
from vr_eval.catalog.tasks import Folders, task_files
from vr_eval.errors import InputError, Problem, nearest
from vr_eval.models.reading import UnreadableImage, read_image


class LazyTask(ConfigurableMessagesTask):
    """A task whose images stay bytes until a question is asked, so that a corrupt image is one failed question.

    lmms-eval decodes question 0 when it builds a task.

    Attributes:
        spec: How an official task is run; None for our own.
        aggregations: Of the official task's metrics.
    """

    DATASET_NAME: Any
    dataset: Any
    dataset_no_image: Any

    def __init__(
        self, config: dict[str, Any], spec: OfficialTask | None = None, aggregations: Aggregations | None = None
    ) -> None:
        self.spec, self.aggregations = spec, aggregations or {}
        self._images: set[str] = set()
        super().__init__(config=config, model_name="vr_eval")

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        names = self.DATASET_NAME if isinstance(self.DATASET_NAME, tuple) else (self.DATASET_NAME,)
        parts = []
        for name in names:
            self.DATASET_NAME = name
            defects.once(ConfigurableTask.download)(self, dataset_kwargs)
            parts.append((self.dataset, self.dataset_no_image))
        if len(parts) > 1:
            self.dataset, self.dataset_no_image = map(_one_after_another, zip(*parts, strict=True))
        if self.config.test_split and self.config.test_split not in self.dataset:
            raise ValueError(f"it has no split {self.config.test_split!r}, but {', '.join(map(repr, self.dataset))}")
        if self.spec is not None and self.spec.only is not None:
            self._keep(*self.spec.only)
        if getattr(self.config, "process_results_use_image", False):
            return
        for split, data in self.dataset.items():
            images = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
            for name in images:
                data = data.cast_column(name, datasets.Image(decode=False))
            self.dataset[split] = data
            self._images.update(images)

    def _keep(self, column: str, value: str) -> None:
        """Only the questions of the test split with this value."""
        split = self.config.test_split
        if column not in self.dataset[split].column_names:
            raise MissingColumn(column, self.dataset[split].column_names)
        kept = [row for row, entry in enumerate(self.dataset[split][column]) if entry == value]
        for data in (self.dataset, self.dataset_no_image):
            data[split] = data[split].select(kept)

    def doc_to_text(self, doc: dict[str, Any]) -> Any:
        return super().doc_to_text(Document(doc))

    def doc_to_messages(self, doc: dict[str, Any], **rounds: Any) -> Any:
        decoded = {name: _decoded(doc[name]) for name in self._images if doc.get(name) is not None}
        return super().doc_to_messages(Document({**doc, **decoded}), **rounds)

    def images_of(self, doc_id: int) -> list[Image]:
        """The images of a question as a model sees them, in reading order. Raises whatever the task's code raises."""
        images, _, _ = ChatMessages(messages=self.doc_to_messages(self.eval_docs[doc_id])).extract_media()
        return list(images)

    def process_results(self, doc: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        with defects.own_chance(doc):
            score = defects.once(ConfigurableTask.process_results)
            scores: dict[str, Any] = score(self, Document(doc), *args, **kwargs)
        return scores

    @property
    def metric(self) -> str:
        """The metric that its score is made from: the first one that it lists, or that an official task is known by."""
        return self.spec.metric if self.spec is not None else str(next(iter(self.config.metric_list))["metric"])


def load_tasks(names: Sequence[str], folders: Folders = ()) -> dict[str, LazyTask]:
    """The tasks by name, with their data; they serve any number of evaluations.

    The Python beside a task's file is executed; `folders` are those that the user named.

    Raises:
        InputError: with every task that is not defined, whose data cannot be loaded, is empty or lacks a column, whose
            metric is no more, or whose judge cannot be asked.
    """
    files, tasks, problems = task_files(folders), {}, []
    with quiet():
        for name in names:
            if name not in files:
                problems.append(Problem(f"no file defines the task {name}", nearest=nearest(name, files)))
                continue
            try:
                tasks[name] = _load_task(name, files[name])
            except InputError as error:
                problems += error.problems
            except (OSError, ValueError, IndexError, MissingColumn, datasets.exceptions.DatasetsError) as error:
                problems.append(no_data(name, files[name], error))
    if problems:
        raise InputError(problems)
    return tasks


def _load_task(name: str, file: Path) -> LazyTask:
    try:
        config = load_yaml_config(str(file), mode="full")
    except Exception as error:  # whatever the Python raises that the file names
        what = (str(error).strip().splitlines() or [""])[0]
        message = f"the task {name} cannot be loaded: {type(error).__name__}: {what}"
        raise InputError(Problem(message, file=str(file))) from error
    spec = OFFICIAL.get(name)
    if spec is None:
        check_files(config, file.parent)
        return LazyTask(config)
    missing = [variable for variable in spec.judge if not os.environ.get(variable)]
    if missing:
        raise InputError(no_judge(name, missing))
    config, aggregations = adapted(config, spec, file)
    check_files(config, file.parent)
    task = LazyTask(config, spec, aggregations)
    check(task, spec)
    return task


def _decoded(held: Mapping[str, Any]) -> Image:
    """What the datasets library holds of an image, as RGB. Raises what its decoder raises: a failure shows it."""
    try:
        return read_image(Path(held["path"] or "") if held["bytes"] is None else held["bytes"])
    except UnreadableImage as error:
        raise (error.__cause__ or error) from None


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


def _one_after_another(parts: Sequence[Mapping[str, datasets.Dataset]]) -> dict[str, datasets.Dataset]:
    return {split: datasets.concatenate_datasets([part[split] for part in parts]) for split in parts[0]}


def _no_bar(*args: Any, **kwargs: Any) -> Any:
    return tqdm(*args, **{**kwargs, "disable": True})
