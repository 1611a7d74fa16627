"""Official tasks through lmms-eval's own definitions: what is changed in them, checked on them, and read from them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vr_eval.adapters import defects
from vr_eval.adapters.answering import CellError
from vr_eval.adapters.questions import Answer
from vr_eval.adapters.results import Scored, target_text
from vr_eval.catalog.official_tasks import OWN, Metric, OfficialTask
from vr_eval.catalog.tasks import TaskData, part_configs
from vr_eval.errors import InputError, Problem, nearest
from vr_eval.places import data_cache

Aggregations = Mapping[str, Callable[..., Any]]


class Document(dict[str, Any]):
    """A question whose missing column is an error that says so."""

    def __missing__(self, name: str) -> Any:
        raise MissingColumn(name, list(self))


class MissingColumn(KeyError):
    """A task reads a column that its data does not have."""

    def __init__(self, name: str, columns: Sequence[str]) -> None:
        super().__init__(name, columns)
        self.name, self.columns = name, columns

    def __str__(self) -> str:
        return f"its data has no column {self.name!r}, but {', '.join(map(repr, self.columns))}"


def adapted(config: Mapping[str, Any], spec: OfficialTask, file: Path) -> tuple[dict[str, Any], Aggregations]:
    """`config` (of the YAML file `file`) as we run it, and its metrics' aggregations without those of a judge.

    Other metrics are left out: they are submissions to servers, which would be written to the working directory.

    Raises:
        InputError: the task has no such metric any more.
    """
    listed = {str(entry["metric"]): entry for entry in config.get("metric_list") or ()}
    for metric in spec.metrics:
        if metric.key not in listed:
            raise InputError(_metric_gone(spec, metric, file, listed))
    filters = [str(entry["name"]) for entry in config.get("filter_list") or ()] or ["none"]
    if spec.metrics[0].pipeline not in filters:
        raise InputError(_metric_gone(spec, spec.metrics[0], file, filters))
    # Several files make up BLINK, and each has a name of its own: results are those of the task that was asked for.
    changed = {**config, "task": spec.name}
    entries = [listed[metric.key] for metric in spec.metrics]
    aggregations = {
        str(entry["metric"]): defects.fresh(entry["aggregation"])
        for entry in entries
        if callable(entry.get("aggregation"))
    }
    entries = [
        {**entry, "aggregation": defects.tolerant(aggregations[entry["metric"]])}
        if entry["metric"] in aggregations
        else entry
        for entry in entries
    ]
    # A judge is asked question by question, and not once more for all of them.
    changed["metric_list"] = [] if spec.judge else entries
    changed["generation_kwargs"] = {**(config.get("generation_kwargs") or {}), **spec.generation}
    # The cache that `vr-eval fetch` fills.
    changed["dataset_kwargs"] = {"cache_dir": str(data_cache())} | defects.login_optional(config.get("dataset_kwargs"))
    if spec.images:
        defects.images_apart(changed, spec.images)
    # A file of the user's own that names a format, such as parquet, has no configurations to join.
    if TaskData(str(changed["dataset_path"]), None).on_hub or Path(str(changed["dataset_path"])).is_dir():
        changed["dataset_name"] = part_configs(spec.name) or changed.get("dataset_name")
    return changed, aggregations


def check(task: Any, spec: OfficialTask) -> None:
    """Score and show the first question of a loaded `task`, so that what does not fit is said before anything is asked.

    Raises:
        MissingColumn: the task reads a column that is not there.
        ValueError: it scores its questions under other metrics.
    """
    doc = dict(task.eval_docs_no_media[0])
    target = task.config.doc_to_target
    # lmms-eval takes a name that is no column for the target itself, and scores every answer against it.
    scored_by_name = isinstance(target, str) and not callable(task.config.process_results)
    for column in (*spec.needs, *([target] if scored_by_name else [])):
        if column not in doc:
            raise MissingColumn(column, list(doc))
    if task.doc_to_target(doc) in ("", [], None):
        raise ValueError("its first question comes without an answer: are those of this split kept back?")
    scores = task.process_results(doc, [""])
    keys = [metric.key for metric in spec.metrics]
    if not any(key in scores for key in keys):
        close = nearest(keys[0], scores)
        hint = f"; did its metric become {close!r}?" if close else ""
        raise ValueError(f"it scores a question by {', '.join(scores)}, and not by {' or '.join(keys)}{hint}")
    try:
        task.doc_to_messages(task.eval_docs[0])
    except MissingColumn:
        raise
    except Exception:  # such as a corrupt image: a matter of this one question, when it is asked
        return


def score_units(
    spec: OfficialTask,
    samples: Mapping[int, Mapping[str, Any]],
    answers: Mapping[int, Answer],
    aggregations: Aggregations,
    arguments: Any,
    limited: bool,
) -> list[Scored]:
    """The questions of an official task with their scores (0 to 1), those that are scored together as one.

    A question is failed if a part of it is. Parts that `limited` cut off leave out the question that they belong to.

    Args:
        samples: lmms-eval's log by question number.
        answers: Our answers by question number.
        aggregations: What `adapted` gave.
        arguments: What lmms-eval hands to aggregations that write files (its parsed command line).

    Raises:
        CellError: a question has no score.
    """
    units: dict[str, list[int]] = {}
    for number, sample in samples.items():
        units.setdefault(_unit(spec, number, sample["doc"]), []).append(number)
    questions = []
    for numbers in units.values():
        parts = [(samples[number], answers[number]) for number in numbers]
        failures = [answer.failure for _, answer in parts if answer.failure]
        score = math.nan
        if not failures:
            score = _score(spec, [sample for sample, _ in parts], aggregations, arguments)
            if math.isnan(score) and limited:
                continue
            if score < 0 and spec.judge:
                raise CellError(f"the judge of {spec.name} gave no verdict on question {numbers[0]}; answers are kept")
            if not 0 <= score <= 1:
                raise CellError(f"the task {spec.name} gives question {numbers[0]} a score of {score}, not 0 to 1")
        questions.append(_joined(parts, failures, score))
    return questions


def in_points(spec: OfficialTask, results: Mapping[str, Any]) -> dict[str, float | None]:
    """lmms-eval's own `results` of the task, each metric divided by its maximum, times 100; None where there is none.

    A failed question counts as wrong there.
    """
    values = {metric.key: (results.get(f"{metric.key},{metric.pipeline}"), metric.maximum) for metric in spec.metrics}
    return {
        key: 100 * float(value) / maximum if isinstance(value, int | float) and not math.isnan(value) else None
        for key, (value, maximum) in values.items()
    }


def _metric_gone(spec: OfficialTask, metric: Metric, file: Path, listed: Any) -> Problem:
    asked = metric.key if metric.key not in listed and metric.pipeline == "none" else f"{metric.key},{metric.pipeline}"
    return Problem(
        f"the task {spec.name} has no metric {asked!r} any more",
        file=str(file),
        key="metric_list",
        allowed=", ".join(listed),
        nearest=nearest(metric.key, listed),
        hint="Its scores are defined for lmms-eval 0.7.3: install that, or correct vr_eval/catalog/official_tasks.py.",
    )


def _unit(spec: OfficialTask, number: int, doc: Mapping[str, Any]) -> str:
    if not spec.unit:
        return str(number)
    value = doc[spec.unit]
    return str(int(value) % spec.modulo if spec.modulo else value)


def _score(
    spec: OfficialTask, samples: Sequence[Mapping[str, Any]], aggregations: Aggregations, arguments: Any
) -> float:
    """The score of what is scored together; NaN where the task's own aggregation gives none."""
    found = [(metric, sample[metric.key]) for sample in samples for metric in spec.metrics if metric.key in sample]
    if not found:
        raise CellError(f"the task {spec.name} gives no score under {spec.metric!r}, but {', '.join(samples[0])}")
    metric, value = found[0]
    if spec.score != OWN:
        number = value[spec.score] if spec.score else value
        return float(number)
    aggregation = aggregations[metric.key]
    extra = {"args": arguments} if "args" in inspect.signature(aggregation).parameters else {}
    values = [value for other, value in found if other == metric]
    return float(defects.tolerant(aggregation)(values, **extra)) / (spec.maximum or metric.maximum)


def _joined(parts: Sequence[tuple[Mapping[str, Any], Answer]], failures: Sequence[str], score: float) -> Scored:
    first, answers = parts[0][0], [answer for _, answer in parts]
    failure = failures[0] if failures else ""
    if failures and len(parts) > 1:
        failure = f"{len(failures)} of {len(parts)} questions that are scored together failed: {failure}"
    return Scored(
        doc_id=int(first["doc_id"]),
        doc=first["doc"],
        prompt="\n".join(str(sample["arguments"][0]) for sample, _ in parts),
        target=" / ".join(target_text(sample["target"]) for sample, _ in parts),
        answer=Answer(
            text=" / ".join(answer.text for answer in answers),
            latency_ms=math.nan if failures else fmean(answer.latency_ms for answer in answers),
            new_tokens=sum(answer.new_tokens for answer in answers),
            failure=failure,
            shared=any(answer.shared for answer in answers),
        ),
        score=score,
    )
