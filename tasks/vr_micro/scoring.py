"""How the vr_micro tasks show a document and score an answer; the metrics themselves are lmms-eval's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.api.metrics import anls as lmms_anls
from lmms_eval.api.metrics import exact_match_hf_evaluate
from lmms_eval.tasks.chartqa.utils import relaxed_correctness
from PIL import Image

Document = Mapping[str, Any]


def images(document: Document) -> list[Image.Image]:
    """The one image of a question, RGB, 192 x 192."""
    return [document["image"].convert("RGB")]


def exact_match(document: Document, answers: Sequence[str]) -> dict[str, float]:
    """1 if the answer is the target, whatever its case and punctuation ("Yes." is "yes"), else 0."""
    score = exact_match_hf_evaluate([answers[0]], [document["answer"]], ignore_case=True, ignore_punctuation=True)
    return {"exact_match": float(score["exact_match"])}


def relaxed_accuracy(document: Document, answers: Sequence[str]) -> dict[str, float]:
    """1 for a number within 5 % of the target (ChartQA's rule), or for the same word whatever its case, else 0."""
    return {"relaxed_accuracy": float(relaxed_correctness(_bare(answers[0]), document["answer"]))}


def anls(document: Document, answers: Sequence[str]) -> dict[str, float]:
    """1 minus the edit distance over the longer length (DocVQA's rule), 0 below one half; case does not count."""
    return {"anls": float(lmms_anls([document["answer"]], [answers[0]])["anls"])}


def _bare(answer: str) -> str:
    # ChartQA's rule reads "29%" as 0.29, and the shares of our pies are asked for in per cent, without the sign.
    return answer.strip().rstrip("%.").rstrip()
