"""From a grid file to its report: a checkpoint of the field's layout on official tasks, without network."""

from __future__ import annotations

import csv
import json
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.adapters.official_data import CASES, picture, write_official
from tests.adapters.world import use
from tests.llava import tiny_preset
from vr_eval.adapters import lmms_tasks
from vr_eval.adapters.answering import Answerer
from vr_eval.adapters.questions import Answer, Question
from vr_eval.catalog.official_tasks import OFFICIAL, SUITES
from vr_eval.cli import main
from vr_eval.config.grid import Grid, load_grid
from vr_eval.config.identity import cell_id
from vr_eval.reporting.images import kept_images

BY_NAME = {case.task: case for case in CASES}
_SEEN = BY_NAME["mmmu_val"].rows
_TWO = _SEEN[0] | {"question": "Did <image 1> paint <image 2>?", "image_2": picture(90)}
BY_NAME["mmmu_val"] = replace(BY_NAME["mmmu_val"], rows=[_TWO, *_SEEN[1:]])
GRID = """\
# Does pruning cost anything?
name: official
backbone: llava_next_vicuna_7b
{asked}
cells:
  - {{projector: mlp}}
  - {{projector: mlp, pruning: fastv, fastv.keep_ratio: 0.5}}
baseline: {{projector: mlp, pruning: none}}
batch_size: 4
"""
FEW = ("chartqa", "docvqa_val", "mme", "mmmu_val")
FAILED = ("chartqa", 1)
"""A question whose image nobody can read."""
OUT = Path("runs/official")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a checkpoint, where the network is a bug."""
    use(tmp_path, monkeypatch)
    tiny_preset(tmp_path / "hub", monkeypatch)

    def connect(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"this asked the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return tmp_path


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models generate as ever, and then the first one says what a case says and the pruned one says nothing."""
    answered, prepare = Answerer._answered, Answerer._prepare

    def said(
        self: Answerer, batches: Sequence[list[Question]], rules: Any
    ) -> Iterator[tuple[list[Question], list[Answer]]]:
        for batch, answers in answered(self, batches, rules):
            texts = [
                BY_NAME[question.task].answers[question.doc_id] if self.model.config.pruning == "none" else ""
                for question in batch
            ]
            yield (
                batch,
                [
                    answer if answer.failure else Answer(text, answer.latency_ms, answer.new_tokens)
                    for text, answer in zip(texts, answers, strict=True)
                ],
            )

    def broken(self: Answerer, question: Question) -> Any:
        if (question.task, question.doc_id) == FAILED:
            return OSError("image file is truncated")
        return prepare(self, question)

    monkeypatch.setattr(Answerer, "_answered", said)
    monkeypatch.setattr(Answerer, "_prepare", broken)


def points(task: str) -> float:
    """What the first model gets in `task`, its failed question left out."""
    if task != FAILED[0]:
        return BY_NAME[task].points
    scores = [score for number, score in enumerate(BY_NAME[task].scores) if number != FAILED[1]]
    return 100 * sum(scores) / len(scores)


def run(place: Path, asked: str, tasks: Sequence[str]) -> Grid:
    for task in tasks:
        write_official(place, BY_NAME[task])
    (place / "official.yaml").write_text(GRID.format(asked=asked))
    assert main(["run", "official.yaml", "--device", "cpu"]) == 0
    return load_grid("official.yaml")


def check(grid: Grid, tasks: Sequence[str]) -> None:
    """Scores per task, suite averages and coverage, in `metrics.json`, in the table and in the page."""
    metrics = json.loads((OUT / "cells" / cell_id(grid.cells[0], grid) / "metrics.json").read_text())["tasks"]
    assert list(metrics) == [task for _, task in grid.tasks]
    for task in tasks:
        assert metrics[task]["score"] == pytest.approx(points(task), abs=1e-3), task
    whole, pruned = csv.DictReader((OUT / "table.csv").read_text().splitlines())
    suites: dict[str, list[float]] = {}
    for suite, task in grid.tasks:
        suites.setdefault(suite, []).append(points(task))
    means = {suite: sum(found) / len(found) for suite, found in suites.items()}
    for suite, mean in means.items():
        assert float(whole[suite]) == pytest.approx(mean, abs=0.06), suite
    assert float(whole["average"]) == pytest.approx(sum(means.values()) / len(means), abs=0.06)
    assert float(pruned["average"]) < float(whole["average"])
    asked = sum(len(BY_NAME[task].scores) for task in tasks)
    for row in (whole, pruned):
        assert float(row["coverage"]) == pytest.approx(100 * (asked - 1) / asked, abs=0.06)
    assert len(pd.read_parquet(OUT / "records.parquet")) == len(grid.cells) * asked


def samples() -> list[dict[str, Any]]:
    """What the page shows of its questions."""
    page = (OUT / "report.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    content = json.loads(found[1])
    assert all(key in content["images"] for sample in content["samples"] for key in sample["images"])
    return list(content["samples"])


@pytest.mark.usefixtures("scripted")
def test_a_run_of_official_tasks_ends_in_a_report_with_their_images(place: Path) -> None:
    grid = run(place, f"tasks: [{', '.join(FEW)}]", FEW)
    check(grid, FEW)
    metrics = json.loads((OUT / "cells" / cell_id(grid.cells[0], grid) / "metrics.json").read_text())["tasks"]
    assert metrics["mme"]["official"] == pytest.approx(BY_NAME["mme"].official)  # sums, divided by 2000 and 800
    assert (metrics["chartqa"]["n"], metrics["chartqa"]["asked"], metrics["chartqa"]["failures"]) == (2, 3, 1)
    shown = samples()
    assert len(shown) == sum(len(BY_NAME[task].scores) for task in FEW)
    for sample in shown:
        assert len(sample["images"]) == (2 if (sample["task"], sample["doc"]) == ("mmmu_val", 0) else 1), sample
    cached = {path: path.stat().st_mtime_ns for path in OUT.rglob("images/**/*.png")}
    assert main(["report", str(OUT)]) == 0
    assert {path: path.stat().st_mtime_ns for path in OUT.rglob("images/**/*.png")} == cached


@pytest.mark.usefixtures("scripted")
def test_images_that_are_lost_come_from_the_data_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "FAILED", ("", 0))
    run(place, "tasks: [mmmu_val]", ["mmmu_val"])
    kept = kept_images(OUT)("mmmu_val", "0")
    assert len(kept) == 2
    for path in OUT.rglob("images/**/*.png"):
        path.unlink()
    assert main(["run", "official.yaml", "--device", "cpu"]) == 0
    assert kept_images(OUT)("mmmu_val", "0") == kept


@pytest.mark.parametrize("wrong", ["column", "metric"])
def test_what_does_not_fit_is_exit_code_2_before_anything_is_made(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    case = BY_NAME["chartqa"]
    rows = [{name: row[name] for name in row if (wrong, name) != ("column", "answer")} for row in case.rows]
    write_official(place, case, rows)
    read = lmms_tasks.load_yaml_config

    def renamed(*given: Any, **named: Any) -> Any:
        config = read(*given, **named)
        config["metric_list"][0]["metric"] = "relaxed_accuracy"
        return config

    if wrong == "metric":
        monkeypatch.setattr(lmms_tasks, "load_yaml_config", renamed)
    (place / "official.yaml").write_text(GRID.format(asked="tasks: [chartqa]"))
    assert main(["run", "official.yaml", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    expected = {
        "column": ("its data has no column 'answer', but 'type', 'question'", "vr-eval knows those of"),
        "metric": ("the task chartqa has no metric 'relaxed_overall' any more", "did you mean 'relaxed_"),
    }
    assert all(words in said for words in expected[wrong]), said
    assert "Traceback" not in said
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("scripted")
def test_all_official_suites_run_from_one_grid_file(place: Path) -> None:
    tasks = [task for suite in SUITES.values() for task in suite]
    grid = run(place, f"suites: [{', '.join(SUITES)}]", tasks)
    assert {task for _, task in grid.tasks} == {task.name for task in OFFICIAL.values() if not task.judge}
    check(grid, tasks)
    assert all(sample["images"] for sample in samples())
