"""What lmms-eval 0.7.3 does wrong, put right from outside. Every workaround of ours is in this file, each with a test.

Two defects need no function here, only a way of calling: `limit` below 1 takes its count from the first task of a call,
and our runs evaluate one task per call; and its collator puts several tasks into one batch, so our model looks every
question up in the question's own task (`VrEval._question`). Both are tested beside the others.
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import datasets
from huggingface_hub import get_token

Aggregation = Callable[..., Any]


def once(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method without its retries: lmms-eval tries what fails five times, 2 s apart, and raises `RetryError` without
    the cause. Raises what the method itself raises."""
    original: Callable[..., Any] = method.__wrapped__  # type: ignore[attr-defined]
    return original


def in_order(samples: Iterable[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Logged samples by question number, in its order: several processes log rank by rank, and pad with clones of a
    question, of which the first counts."""
    found: dict[int, Mapping[str, Any]] = {}
    for sample in samples:
        found.setdefault(int(sample["doc_id"]), sample)
    return dict(sorted(found.items()))


def fresh(aggregation: Aggregation) -> Aggregation:
    """An aggregation that counts from zero: ocrbench adds to a global of its module, so that a second evaluation in one
    process would report both together."""
    counters = getattr(aggregation, "__globals__", {}).get("OCRBench_score")
    if counters is None:
        return aggregation

    @functools.wraps(aggregation)
    def from_zero(*args: Any, **kwargs: Any) -> Any:
        counters.update(dict.fromkeys(counters, 0))
        return aggregation(*args, **kwargs)

    return from_zero


def tolerant(aggregation: Aggregation) -> Aggregation:
    """An aggregation that gives NaN where it would end the evaluation: mme asserts that both questions on an image are
    there, which an odd limit prevents."""

    @functools.wraps(aggregation)
    def or_nan(*args: Any, **kwargs: Any) -> Any:
        try:
            return aggregation(*args, **kwargs)
        except AssertionError:
            return math.nan

    return or_nan


def login_optional(dataset_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """`dataset_kwargs` that ask for no login where there is none: most tasks say `token: true`, which fails without a
    token even for public data. A token that is there is used, as gated data needs it."""
    kwargs = dict(dataset_kwargs or {})
    if kwargs.get("token") is True and get_token() is None:
        del kwargs["token"]
    return kwargs


@contextlib.contextmanager
def own_chance(doc: Mapping[str, Any]) -> Iterator[None]:
    """Chance that depends on the question alone: mmmu draws an answer where it can parse none, and the draw would
    depend on how many questions were scored before, and so on the number of processes."""
    state = random.getstate()
    random.seed(repr(sorted(doc.items(), key=lambda item: item[0])))
    try:
        yield
    finally:
        random.setstate(state)


def images_apart(config: dict[str, Any], images: str) -> None:
    """Changes `config` so that a question's image is looked up when it is asked: gqa reads its images from the hub
    whatever `dataset_path` says, holds all of them decoded, and stores one copy per question (12,578 of 398 images).

    `images` is the configuration of the dataset that holds them by `id`; a question names its own as `imageId`.
    """
    path, split = config["dataset_path"], config["test_split"]
    kwargs = {name: value for name, value in (config.get("dataset_kwargs") or {}).items() if name != "data_files"}

    @functools.cache
    def table() -> tuple[Any, dict[str, int]]:
        data = datasets.load_dataset(path, images, split=split, **kwargs)
        return data, {str(name): row for row, name in enumerate(data["id"])}

    def image_of(doc: Mapping[str, Any]) -> list[Any]:
        data, rows = table()
        return [data[rows[str(doc["imageId"])]]["image"].convert("RGB")]

    config["process_docs"], config["doc_to_visual"] = None, image_of
