"""lmms-eval's own command, alone and in two processes, gives what `vr-eval run` gives, question by question."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.adapters.official_data import CASES, Row, picture, write_official
from tests.adapters.world import GRID, TASKS, toy_grid, write_checkpoints
from vr_eval.adapters.defects import in_order
from vr_eval.catalog.official_tasks import OFFICIAL as SPECS
from vr_eval.catalog.official_tasks import packaged_files
from vr_eval.catalog.tasks import task_fields
from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id
from vr_eval.runs.execute import run_grid

BY_NAME = {case.task: case for case in CASES}
TOYS = dict.fromkeys(TASKS, "toy_match")
LIMIT = 7
"""Odd, so that the second process gets a clone of a question to keep it busy."""
PARALLEL = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
Answered = dict[str, dict[int, tuple[str, float]]]
OFFICIAL = {"textvqa_val": "exact_match", "ocrbench": "ocrbench_accuracy", "chartqa": "relaxed_overall"}
"""Official tasks with the metric of each, of which one keeps its counts in a global, and one gives parts of a point."""


def plain(
    root: Path, checkpoint: Path, *launcher: str, tasks: Mapping[str, str] = TOYS
) -> tuple[Answered, dict[str, float]]:
    """Answers and scores of lmms-eval's command, and its own results; `tasks` says the metric of each."""
    out = root / f"out{len(launcher)}"
    subprocess.run(
        [
            *(sys.executable, *launcher, "-m", "lmms_eval", "--model", "vr_eval"),
            *("--model_args", f"pretrained={checkpoint}", "--tasks", ",".join(tasks), "--limit", str(LIMIT)),
            *("--include_path", str(root / "tasks"), "--batch_size", "4", "--device", "cpu"),
            *("--output_path", str(out), "--log_samples"),
        ],
        check=True,
        capture_output=True,
        timeout=1800,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    answered: Answered = {}
    for task, metric in tasks.items():
        (file,) = out.rglob(f"*_samples_{task}.jsonl")
        logged = in_order(map(json.loads, file.read_text().splitlines()))
        answered[task] = {
            doc: (_text(sample["filtered_resps"]), _number(sample[metric])) for doc, sample in logged.items()
        }
    (file,) = out.rglob("*_results.json")
    results = json.loads(file.read_text())["results"]
    return answered, {task: results[task][f"{metric},none"] for task, metric in tasks.items()}


def _text(answer: str | list[str]) -> str:
    return answer if isinstance(answer, str) else answer[0]


def _number(score: float | dict[str, float]) -> float:
    """Some tasks log a dictionary around the number."""
    return score["score"] if isinstance(score, dict) else score


def ours(grid: Grid, cell: Cell, out: Path) -> Answered:
    """Answers and scores of `cell` in our own run of `grid`."""
    assert run_grid(grid, out=out, device="cpu") == 0
    records = pd.read_parquet(out / "records.parquet")
    records = records[records["cell_id"] == cell_id(cell, grid)]
    return {
        str(task): {int(row.doc_id): (row.answer.strip(), row.score) for row in rows.itertuples()}
        for task, rows in records.groupby("task")
    }


@pytest.mark.slow
def test_one_process_and_two_give_the_scores_of_our_run(root: Path) -> None:
    grid = toy_grid(root, limit=LIMIT)
    cell = grid.cells[1]
    write_checkpoints(grid.cells)
    expected = ours(grid, cell, root / "run")
    checkpoint = find_checkpoint(cell)
    assert checkpoint is not None
    assert {task: [*rows] for task, rows in expected.items()} == {task: [*range(LIMIT)] for task in TASKS}
    alone, alone_results = plain(root, checkpoint)
    assert alone == expected
    parallel, parallel_results = plain(root, checkpoint, *PARALLEL)
    assert parallel == expected
    means = {task: sum(score for _, score in rows.values()) / LIMIT for task, rows in expected.items()}
    assert alone_results == pytest.approx(means)
    assert parallel_results == pytest.approx(means)
    assert len({text for rows in expected.values() for text, _ in rows.values()}) > LIMIT


def questions(task: str, said: Mapping[int, tuple[str, float]] | None = None) -> list[Row]:
    """`LIMIT` questions of `task`; every other one is answered by what the model `said`, the others by none of it."""
    rows = []
    for number in range(LIMIT):
        shape = BY_NAME[task].rows[number % len(BY_NAME[task].rows)]
        right = said[number][0] if said is not None and number % 2 else "7 or none"
        answers = {"answer": [right]} if task == "ocrbench" else {"answer": right}
        if "answers" in shape:
            answers = {"answers": [right] * (2 if number % 3 else 10) + ["no"] * (8 if number % 3 else 0)}
        rows.append({**shape, **answers, "question": f"which code {number}?", "image": picture(40 * number)})
    return rows


@pytest.mark.slow
def test_official_tasks_too(root: Path) -> None:
    """The first run says what a random model answers, so that the second one can be right now and then."""
    text = GRID.replace("[vr_toy_ocr, vr_toy_doc]", f"[{', '.join(OFFICIAL)}]")
    write_all(root)
    grid = toy_grid(root, text)
    cell = grid.cells[1]
    write_checkpoints(grid.cells)
    first = ours(grid, cell, root / "first")
    write_all(root, first)
    expected = ours(grid, cell, root / "run")
    assert {task: [text for text, _ in rows.values()] for task, rows in expected.items()} == {
        task: [text for text, _ in rows.values()] for task, rows in first.items()
    }
    for task, rows in expected.items():
        scores = {score for _, score in rows.values()}
        assert len(scores) > 1, task
    checkpoint = find_checkpoint(cell)
    assert checkpoint is not None
    tasks = {f"plain_{task}": metric for task, metric in OFFICIAL.items()}
    renamed = {f"plain_{task}": rows for task, rows in expected.items()}
    alone, alone_results = plain(root, checkpoint, tasks=tasks)
    assert alone == renamed
    parallel, parallel_results = plain(root, checkpoint, *PARALLEL, tasks=tasks)
    assert parallel == renamed
    assert parallel_results == pytest.approx(alone_results)
    means = {task: sum(score for _, score in rows.values()) / LIMIT for task, rows in renamed.items()}
    means["plain_ocrbench"] *= LIMIT / 1000  # of its thousand questions
    assert alone_results == pytest.approx(means)


def write_all(root: Path, said: Answered | None = None) -> None:
    """The official tasks under their own names, and under others, since lmms-eval's own files win over ours."""
    shutil.rmtree(root / "cache", ignore_errors=True)
    for task in OFFICIAL:
        write_official(root, BY_NAME[task], questions(task, said[task] if said is not None else None))
        own = yaml.safe_load((root / "tasks" / f"{task}.yaml").read_text())
        limits = (task_fields(packaged_files()[task]).get("generation_kwargs") or {}) | dict(SPECS[task].generation)
        plainly = own | {"task": f"plain_{task}", "generation_kwargs": {"until": ["\n\n"]} | limits}
        plainly["dataset_kwargs"] = {"cache_dir": str(root / "cache")}
        (root / "tasks" / f"plain_{task}.yaml").write_text(yaml.safe_dump(plainly))
