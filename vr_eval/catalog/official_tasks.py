"""The official benchmarks: which lmms-eval tasks make up a suite, and how each one's metric becomes 0 to 100.

This is the one place that says so. Prompts, columns and scoring are those of the installed lmms-eval; a task's data and
split are read from its packaged YAML file, never restated here. Nothing in this module imports lmms-eval or torch.

How a number is made, from the bottom:

- A *question's* score is what lmms-eval's own functions give for it, divided by the most they can give.
- Some tasks score several questions together (both questions on an image of MME, all rotations of one of MMBench's):
  these count as one question with one score.
- A *task's* score is 100 times the mean over its questions. Where the official metric is a mean of category means
  (MME, MMStar), it is the mean over the categories of the mean in each. On all questions of a task this is the official
  metric, divided by its maximum.
- A *suite's* score is the plain mean of its tasks, whatever their sizes; the average is the plain mean of the suites.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vr_eval.catalog.frozen import FrozenDict

DEFINITION = 1
"""Raised by hand when this module comes to ask or score an official task differently."""

OWN = "the task's own aggregation"
"""As `OfficialTask.score`: apply the metric's aggregation to what is scored together, and to nothing else."""


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    Attributes:
        key: Its name in the task's ``metric_list``.
        maximum: What a model without a fault gets; the metric divided by it, times 100, is in points.
        pipeline: The task's answer filter that it is computed behind; lmms-eval reports it as ``key,pipeline``.
    """

    key: str
    maximum: float = 1.0
    pipeline: str = "none"


@dataclass(frozen=True)
class OfficialTask:
    """One official task.

    Attributes:
        name: lmms-eval's name.
        suite: ocr, chart, doc or general.
        file: Its YAML file below lmms-eval's ``tasks`` folder.
        metrics: The first one that a question has gives its score; the others are told beside it.
        score: Where a question's logged value holds its score: "" if it is the number itself, a key of it, or `OWN`.
        maximum: Of `OWN` on what is scored together, where it is not the metric's.
        unit: Column that questions scored together share; "" where each is scored alone.
        modulo: The column's value counts modulo this (MMBench numbers rotations 1,000,000 apart); 0 for as it is.
        kind: Column with a question's category; "" where there is none.
        by_kind: Whether the official metric is a mean (or a sum) of category means.
        cluster: Column that names a question's image; "" for ``image_id``. Where the data has no such column, every
            question is its own cluster.
        needs: Columns without which its scoring finds every answer wrong, and says nothing.
        only: Column and value of the questions that are asked; None for all of them.
        parts: Pattern of the packaged files, beside `file`, whose data together are this task's; "" for `file` alone.
        images: Configuration of the dataset that holds the images, where they are apart from the questions.
        generation: Ours, over the task's ``generation_kwargs``: every task states where an answer ends.
        judge: Environment variables that its judge, a model behind an API, needs; empty for tasks without one.
    """

    name: str
    suite: str
    file: str
    metrics: tuple[Metric, ...]
    score: str = ""
    maximum: float | None = None
    unit: str = ""
    modulo: int = 0
    kind: str = ""
    by_kind: bool = False
    cluster: str = ""
    needs: tuple[str, ...] = ()
    only: tuple[str, str] | None = None
    parts: str = ""
    images: str = ""
    generation: Mapping[str, Any] = field(default_factory=dict)
    judge: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """What its score is called: its metric, or all that its questions are scored by."""
        return self.metrics[0].key


BLANK_LINE = {"until": ["\n\n"]}
"""lmms-eval's own default where a task gives generation_kwargs without `until`; stated, so that it cannot change."""
PHRASE = {"max_new_tokens": 64}
"""Ours, where the task sets no limit and asks for a word or phrase: twice DocVQA's 32."""
LETTER = {"max_new_tokens": 16}
"""Ours, where the task sets no limit and asks for a letter: the limit of AI2D, ScienceQA and V*."""

_EXACT = (Metric("exact_match"),)
_ANSWERS = ("answers",)
_JUDGE = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "MODEL_VERSION")

_TASKS = (
    OfficialTask("textvqa_val", "ocr", "textvqa/textvqa_val.yaml", _EXACT, needs=_ANSWERS, generation=PHRASE),
    OfficialTask(
        "ocrbench",
        "ocr",
        "ocrbench/ocrbench.yaml",
        (Metric("ocrbench_accuracy"),),
        score="score",
        kind="question_type",
        generation=BLANK_LINE,
    ),
    OfficialTask(
        "chartqa", "chart", "chartqa/chartqa.yaml", (Metric("relaxed_overall"),), kind="type", generation=BLANK_LINE
    ),
    OfficialTask(
        "charxiv_val_descriptive",
        "chart",
        "charxiv/charxiv_val_descriptive.yaml",
        (Metric("descriptive_acc"),),
        score=OWN,
        cluster="figure_path",
        generation=BLANK_LINE,
        judge=_JUDGE,
    ),
    OfficialTask(
        "charxiv_val_reasoning",
        "chart",
        "charxiv/charxiv_val_reasoning.yaml",
        (Metric("reasoning_acc"),),
        score=OWN,
        cluster="figure_path",
        generation=BLANK_LINE,
        judge=_JUDGE,
    ),
    OfficialTask(
        "docvqa_val", "doc", "docvqa/docvqa_val.yaml", (Metric("anls"),), cluster="docId", generation=BLANK_LINE
    ),
    OfficialTask("infovqa_val", "doc", "infovqa/infovqa_val.yaml", (Metric("anls"),), generation=BLANK_LINE),
    OfficialTask(
        "ai2d", "doc", "ai2d/ai2d.yaml", (Metric("exact_match", pipeline="flexible-extract"),), generation=BLANK_LINE
    ),
    OfficialTask(
        "gqa",
        "general",
        "gqa/gqa.yaml",
        _EXACT,
        cluster="imageId",
        images="testdev_balanced_images",
        generation=BLANK_LINE,
    ),
    OfficialTask("realworldqa", "general", "realworldqa/realworldqa.yaml", _EXACT, generation=BLANK_LINE),
    OfficialTask("scienceqa_img", "general", "scienceqa/scienceqa_img.yaml", _EXACT, generation=BLANK_LINE),
    OfficialTask(
        "vizwiz_vqa_val",
        "general",
        "vizwiz_vqa/vizwiz_vqa_val.yaml",
        _EXACT,
        needs=_ANSWERS,
        generation=PHRASE,
    ),
    OfficialTask("vqav2_val", "general", "vqav2/vqav2_val.yaml", _EXACT, needs=_ANSWERS, generation=BLANK_LINE),
    OfficialTask(
        "mmbench_en_dev_static",
        "general",
        "mmbench/mmbench_en_dev_static.yaml",
        (Metric("gpt_eval_score", maximum=100),),
        score=OWN,
        unit="index",
        modulo=1_000_000,
        kind="L2-category",
    ),
    OfficialTask(
        "mme",
        "general",
        "mme/mme.yaml",
        # 10 and 4 categories of 200 each.
        (Metric("mme_perception_score", maximum=2000), Metric("mme_cognition_score", maximum=800)),
        score=OWN,
        maximum=200,
        unit="question_id",
        kind="category",
        by_kind=True,
        generation=BLANK_LINE,
    ),
    OfficialTask(
        "pope",
        "general",
        "pope/pope.yaml",
        (Metric("pope_accuracy"), Metric("pope_f1_score")),
        score="score",
        kind="category",
        cluster="image_source",
        generation=BLANK_LINE,
    ),
    OfficialTask(
        "seedbench",
        "general",
        "seedbench/seedbench.yaml",
        (Metric("seed_image"),),
        score=OWN,
        only=("data_type", "image"),
        generation=LETTER,
    ),
    OfficialTask(
        "mmstar",
        "general",
        "mmstar/mmstar.yaml",
        (Metric("average"),),
        score="score",
        kind="l2_category",
        by_kind=True,
        generation=BLANK_LINE | LETTER,
    ),
    OfficialTask("mmmu_val", "general", "mmmu/mmmu_val.yaml", (Metric("mmmu_acc"),), score=OWN, generation=BLANK_LINE),
    OfficialTask(
        "mmvp",
        "general",
        "mmvp/mmvp.yaml",
        (Metric("mmvp_accuracy"), Metric("mmvp_pair_accuracy")),
        score="is_correct",
        generation=BLANK_LINE,
    ),
    OfficialTask(
        "cv_bench",
        "general",
        "cv_bench/cv_bench.yaml",
        (Metric("cv_bench_acc"),),
        score="is_correct",
        kind="task",
        generation=BLANK_LINE,
    ),
    OfficialTask(
        "blink",
        "general",
        "blink/blink_art_style.yaml",
        (Metric("blink_acc"),),
        score="is_correct",
        kind="sub_task",
        parts="blink_*.yaml",
        generation=BLANK_LINE,
    ),
    OfficialTask(
        "vstar_bench",
        "general",
        "vstar_bench/vstar_bench.yaml",
        (Metric("vstar_overall_acc", maximum=100),),
        score="score",
        kind="category",
        generation=BLANK_LINE,
    ),
)

OFFICIAL: Mapping[str, OfficialTask] = MappingProxyType({task.name: task for task in _TASKS})
"""Every official task by name, those with a judge included."""

SUITES: Mapping[str, tuple[str, ...]] = FrozenDict(
    {
        suite: tuple(task.name for task in _TASKS if task.suite == suite and not task.judge)
        for suite in dict.fromkeys(task.suite for task in _TASKS)
    }
)
"""The suites of every backbone that reads real images; tasks with a judge are asked only where a grid names them."""


@lru_cache(maxsize=1)
def packaged_files() -> dict[str, Path]:
    """Official task to its file in the installed lmms-eval, which is found without being imported."""
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or spec.origin is None:
        return {}
    root = Path(spec.origin).parent / "tasks"
    return {name: root / task.file for name, task in OFFICIAL.items()}


def definition_version() -> str:
    """What official results depend on beside their task's name: this module and lmms-eval's release."""
    return f"{DEFINITION}, lmms-eval {version('lmms-eval')}"
