"""A made-up run that looks like a real one: the projectors grid, 7 cells x 4 tasks x 120 questions, images included.

Every question has a difficulty that all cells share, so that paired intervals are narrower than unpaired ones, and
every image carries three questions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from vr_eval.reporting import choose_samples, save_images

GRID = """\
# Does looking again at the vision features help, whatever projector compressed them?
#
# Paper: Vision Remember (arXiv 2506.03928) is combined with several efficient projectors.
name: projectors
backbone: micro
seeds: [0]
"""
KINDS = {
    "ocr": ("colour", "position", "whole_code"),
    "chart": ("bar_value", "line_value", "pie_share", "comparison"),
    "doc": ("form", "table", "receipt"),
    "general": ("colour", "count", "presence", "shape"),
}
METRICS = {"ocr": "exact_match", "chart": "relaxed_accuracy", "doc": "anls", "general": "exact_match"}
QUESTIONS = {
    "ocr": "Which code is printed in {}?",
    "chart": "What is the value of {}?",
    "doc": "What is written next to {}?",
    "general": "How many {} objects are there?",
}
WORDS = ("red", "blue", "green", "teal", "amber", "violet")
LOSS = {"mlp": 0.0, "avg_pool": 0.20, "pixel_shuffle": 0.10, "tokenpacker": 0.08}
GAIN = {"ocr": 0.09, "chart": 0.05, "doc": 0.04, "general": -0.005}
STRENGTH = {"ocr": 0.95, "chart": 0.84, "doc": 0.86, "general": 0.94}


@dataclasses.dataclass(frozen=True)
class FakeCell:
    projector: str
    ratio: int = 4
    refusion: str = "none"
    seed: int = 0
    options: str = "{}"
    is_baseline: bool = False
    pruning: str = "none"
    image: str = "none"
    backbone: str = "micro"

    @property
    def label(self) -> str:
        ratio = "" if self.ratio == 1 else f" 1/{self.ratio}"
        added = "" if self.refusion == "none" else f" + {self.refusion}"
        return f"{self.projector}{ratio}{added}"

    @property
    def cell_id(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    @property
    def columns(self) -> dict[str, Any]:
        """The record columns that describe the cell; `cell.json` holds the same keys."""
        return {
            "cell_id": self.cell_id,
            "checkpoint_id": hashlib.sha256(self.cell_id.encode()).hexdigest()[:16],
            "label": self.label,
            "backbone": self.backbone,
            "projector": self.projector,
            "ratio": self.ratio,
            "refusion": self.refusion,
            "pruning": self.pruning,
            "image": self.image,
            "options": self.options,
            "seed": self.seed,
            "tokens": 144 // self.ratio,
            "is_baseline": self.is_baseline,
        }


CELLS = (
    *(
        FakeCell(p, refusion=r)
        for p in ("avg_pool", "pixel_shuffle", "tokenpacker")
        for r in ("none", "vision_remember")
    ),
    FakeCell("mlp", ratio=1, is_baseline=True),
)


def make_records(
    cells: Sequence[FakeCell] = CELLS, *, per_task: int = 120, failures: int = 3, suites: Sequence[str] = tuple(KINDS)
) -> pd.DataFrame:
    """Records of ``cells``; the last cell but one misses ``failures`` answers of each task."""
    rows = []
    for suite in suites:
        shared = np.random.default_rng(len(suite))
        difficulty = shared.normal(0, 1, (per_task + 2) // 3)[np.arange(per_task) // 3] + shared.normal(0, 1, per_task)
        targets = shared.integers(1000, 9999, per_task)
        for cell in cells:
            rng = np.random.default_rng([cell.seed, len(cell.label), len(suite)])
            loss = LOSS.get(cell.projector, 0.1) * (1 if cell.ratio == 4 else 1.8 if cell.ratio > 4 else 0)
            strength = STRENGTH[suite] - loss * (0.3 if suite == "general" else 1.0)
            if cell.refusion != "none":
                strength += GAIN[suite]
            # 1.5 is about the spread of the difficulty plus the cell's own noise.
            threshold = 1.6 * _normal_quantile(strength)
            right = difficulty + rng.normal(0, 0.7, per_task) < threshold
            for doc in range(per_task):
                failed = cells.index(cell) == len(cells) - 2 and doc % 40 == 7 and doc // 40 < failures
                answer, score = str(targets[doc]), 1.0
                if not right[doc]:
                    answer, score = str(targets[doc] + 10 ** rng.integers(0, 3)), 0.0
                    if suite == "doc" and doc % 4 == 0:
                        score = 0.75  # ANLS gives part of the points for a near miss
                rows.append(
                    cell.columns
                    | {
                        "suite": suite,
                        "task": f"vr_micro_{suite}",
                        "metric": METRICS[suite],
                        "doc_id": doc,
                        "cluster": f"{suite}-{doc // 3:04d}",
                        "kind": KINDS[suite][doc % len(KINDS[suite])],
                        "question": QUESTIONS[suite].format(WORDS[doc % len(WORDS)]),
                        "answer": "" if failed else answer,
                        "target": str(targets[doc]),
                        "score": math.nan if failed else score,
                        "failure": "out of memory at batch 1" if failed else "",
                        "latency_ms": math.nan if failed else float(rng.gamma(40, 0.25 + cell.columns["tokens"] / 800)),
                        "new_tokens": 0 if failed else 4,
                        "run_id": "20261123-101500-7f3a",
                    }
                )
    return pd.DataFrame(rows)


def write_run(
    path: Path,
    records: pd.DataFrame,
    *,
    grid: str = GRID,
    images: bool = True,
    cells: Sequence[dict[str, Any]] | None = None,
) -> Path:
    """A run directory with ``records``; ``cells`` are the contents of the cells' ``cell.json``."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "grid.yaml").write_text(grid)
    environment = {
        "run_id": "20261123-101500-7f3a",
        "started": "2026-11-23T10:15:00+00:00",
        "command": "vr-eval run ablations/projectors.yaml",
        "git": {"commit": "3f2a9c1d5b7e", "dirty": False},
        "versions": {"python": "3.11.9", "torch": "2.15.0", "transformers": "5.23.0", "lmms_eval": "0.7.3"},
        "platform": "Linux",
        "cpu": "AMD EPYC 7B13, 2 cores",
        "torch_threads": 2,
        "gpu": None,
    }
    (path / "environment.json").write_text(json.dumps(environment))
    records.to_parquet(path / "records.parquet")
    if cells is None:
        first = records.drop_duplicates("cell_id")
        extra = {"none": 0, "vision_remember": 231_000, "deepstack": 0}
        cells = [
            {key: row[key] for key in FakeCell("mlp").columns}
            | {
                "status": "done",
                "parameters": {
                    "total": 1_310_000 + extra[str(row["refusion"])],
                    "projector": 37_000,
                    "refusion": extra[str(row["refusion"])],
                    "method": 37_000 + extra[str(row["refusion"])],
                },
            }
            for row in json.loads(first.to_json(orient="records"))
        ]
    for cell in cells:
        folder = path / "cells" / cell["cell_id"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cell.json").write_text(json.dumps(cell))
    if images:
        chosen = choose_samples(records)
        clusters = records.drop_duplicates(["task", "doc_id"]).set_index(["task", "doc_id"])
        for task, doc in chosen:
            row = clusters.loc[(task, doc)]
            save_images(path, task, row["cluster"], [draw(str(row["suite"]), str(row["cluster"]))])
    return path


def draw(suite: str, cluster: str) -> Image.Image:
    """A 192 x 192 picture that differs from cluster to cluster."""
    rng = np.random.default_rng(list(cluster.encode()))
    image = Image.new("RGB", (192, 192), tuple(int(v) for v in rng.integers(225, 256, 3)))
    pen = ImageDraw.Draw(image)
    for index in range(5):
        x, y, size = (int(v) for v in rng.integers(10, 120, 3))
        colour = tuple(int(v) for v in rng.integers(30, 220, 3))
        if suite == "chart":
            pen.rectangle((20 + index * 32, 170 - size, 42 + index * 32, 170), fill=colour)
        elif suite == "general":
            pen.ellipse((x, y, x + 20 + size // 3, y + 20 + size // 3), fill=colour)
        else:
            pen.text((14 + (index % 2) * 90, 16 + index * 34), str(rng.integers(1000, 9999)), fill=colour, font_size=24)
    return image


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(min(max(p, 0.02), 0.98))
