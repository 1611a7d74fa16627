"""How many questions a task asks, known before its data is opened: for plans only, a run counts for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vr_eval.catalog.backbone import BackboneSpec
from vr_eval.catalog.official_tasks import OFFICIAL, packaged_files
from vr_eval.catalog.tasks import Folders, task_files


@dataclass(frozen=True)
class Published:
    """The size of an official task's test split.

    Attributes:
        questions: What is asked, before any are scored together.
        source: Where that is said; a card is the README of a dataset of the Hugging Face hub.
    """

    questions: int
    source: str


_README = "README of lmms-eval 0.1"

PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "textvqa_val": Published(5_000, "card of lmms-lab/textvqa"),
        "ocrbench": Published(1_000, "card of echo840/OCRBench"),
        "chartqa": Published(2_500, "card of HuggingFaceM4/ChartQA"),
        "charxiv_val_descriptive": Published(4_000, "CharXiv: 4 on each of 1,000 charts"),
        "charxiv_val_reasoning": Published(1_000, "CharXiv: 1 on each of 1,000 charts"),
        "docvqa_val": Published(5_349, "card of lmms-lab/DocVQA"),
        "infovqa_val": Published(2_801, "card of lmms-lab/DocVQA"),
        "ai2d": Published(3_088, "card of lmms-lab/ai2d"),
        "gqa": Published(12_578, _README),
        "realworldqa": Published(765, "viewer of lmms-lab/RealWorldQA"),
        "scienceqa_img": Published(2_017, _README),
        "vizwiz_vqa_val": Published(4_319, "card of lmms-lab/VizWiz-VQA"),
        "vqav2_val": Published(214_354, "VQA v2: validation, balanced real images"),
        # lmms-lab/MMBench has 11.0 k rows in `en`, so it is this version and not the earlier one of 4,377.
        "mmbench_en_dev_static": Published(4_329, "card of HuggingFaceM4/MMBench"),
        "mme": Published(2_374, _README),
        "pope": Published(9_000, "viewer of lmms-lab/POPE"),
        "mmstar": Published(1_500, "MMStar, arXiv 2403.20330"),
        "mmmu_val": Published(900, "viewer of lmms-lab/MMMU"),
        "mmvp": Published(300, "card of lmms-lab-eval/MMVP"),
        "cv_bench": Published(2_638, "card of nyu-visionx/CV-Bench"),
        "blink": Published(1_901, "BLINK: validation of its 14 parts"),
        "vstar_bench": Published(191, "README of the task in lmms-eval 0.7.3"),
    }
)
"""By official task. seedbench is not here: its 18 k rows hold images and videos, and only its images are asked."""


def published(task: str, folders: Folders = ()) -> Published | None:
    """The published size of `task`; None where none is, or where a file of one's own names other data."""
    return (
        PUBLISHED.get(task)
        if task in OFFICIAL and task_files(folders).get(task) == packaged_files().get(task)
        else None
    )


def questions_of(task: str, backbone: BackboneSpec, limit: int | None, folders: Folders = ()) -> int | None:
    """Questions that `task` asks, at most `limit`; None where nobody says before the data is opened."""
    known = published(task, folders)
    size = known.questions if known is not None else None
    if task not in OFFICIAL and task in backbone.tasks:  # generated with the project
        size = backbone.test_questions
    if size is None:
        return None
    return min(size, limit) if limit is not None else size
