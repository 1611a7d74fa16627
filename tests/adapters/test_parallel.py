"""lmms-eval's own command, alone and in two processes, gives what `vr-eval run` gives, question by question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.adapters.world import TASKS, toy_grid, write_checkpoints
from vr_eval.adapters.defects import in_order
from vr_eval.config.identity import cell_id
from vr_eval.runs.execute import run_grid
from vr_eval.runs.store import find_checkpoint

LIMIT = 7
"""Odd, so that the second process gets a clone of a question to keep it busy."""
PARALLEL = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
Answered = dict[str, dict[int, tuple[str, float]]]


def plain(root: Path, checkpoint: Path, *launcher: str) -> tuple[Answered, dict[str, float]]:
    """Answers and scores of lmms-eval's command, and its own results."""
    out = root / f"out{len(launcher)}"
    subprocess.run(
        [
            *(sys.executable, *launcher, "-m", "lmms_eval", "--model", "vr_eval"),
            *("--model_args", f"pretrained={checkpoint}", "--tasks", ",".join(TASKS), "--limit", str(LIMIT)),
            *("--include_path", str(root / "tasks"), "--batch_size", "4", "--device", "cpu"),
            *("--output_path", str(out), "--log_samples"),
        ],
        check=True,
        capture_output=True,
        timeout=400,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    answered: Answered = {}
    for task in TASKS:
        (file,) = out.rglob(f"*_samples_{task}.jsonl")
        logged = in_order(map(json.loads, file.read_text().splitlines()))
        answered[task] = {doc: (sample["filtered_resps"], sample["toy_match"]) for doc, sample in logged.items()}
    (file,) = out.rglob("*_results.json")
    results = json.loads(file.read_text())["results"]
    return answered, {task: results[task]["toy_match,none"] for task in TASKS}


@pytest.mark.slow
def test_one_process_and_two_give_the_scores_of_our_run(root: Path) -> None:
    grid = toy_grid(root, limit=LIMIT)
    cell = grid.cells[1]
    write_checkpoints(grid.cells)
    assert run_grid(grid, out=root / "run", device="cpu") == 0
    records = pd.read_parquet(root / "run" / "records.parquet")
    records = records[records["cell_id"] == cell_id(cell, grid)]
    ours: Answered = {
        task: {int(row.doc_id): (row.answer.strip(), row.score) for row in rows.itertuples()}
        for task, rows in records.groupby("task")
    }
    checkpoint = find_checkpoint(cell)
    assert checkpoint is not None
    alone, alone_results = plain(root, checkpoint)
    assert {task: [*rows] for task, rows in ours.items()} == {task: [*range(LIMIT)] for task in TASKS}
    assert alone == ours
    parallel, parallel_results = plain(root, checkpoint, *PARALLEL)
    assert parallel == ours
    means = {task: sum(score for _, score in rows.values()) / LIMIT for task, rows in ours.items()}
    assert alone_results == pytest.approx(means)
    assert parallel_results == pytest.approx(means)
    assert len({text for rows in ours.values() for text, _ in rows.values()}) > LIMIT
