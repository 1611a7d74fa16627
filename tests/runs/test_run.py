"""Whole runs of a small grid in this process."""

from __future__ import annotations

import errno
import json
import os
import shutil
from functools import partialmethod
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.adapters.world import GRID, QUESTIONS, TASKS, toy_grid, write_checkpoint, write_checkpoints, write_tasks
from vr_eval.adapters.answering import Answerer
from vr_eval.adapters.questions import Question
from vr_eval.cli import main
from vr_eval.config.checkpoint_folders import trained_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id, checkpoint_id
from vr_eval.errors import InputError, VrEvalError
from vr_eval.models.feature_store import FeatureStore
from vr_eval.records.columns import COLUMNS
from vr_eval.runs.evaluate import Session
from vr_eval.runs.execute import run_grid
from vr_eval.runs.executors.base import Ended
from vr_eval.runs.executors.inline import InlineExecutor
from vr_eval.runs.train import train_grid

OUT = Path("runs/toys")
WITH_REFUSION = "  - {projector: avg_pool, ratio: 4, refusion: vision_remember}"


def records() -> pd.DataFrame:
    return pd.read_parquet(OUT / "records.parquet")


def folder(grid: Grid, place: int) -> Path:
    return OUT / "cells" / cell_id(grid.cells[place], grid)


def metrics(grid: Grid, place: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder(grid, place) / "metrics.json").read_text())
    return content


def test_a_run_leaves_everything_in_its_directory(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_grid(grid) == 0
    out = capsys.readouterr()
    assert "avg_pool 1/4 + vision_remember" in out.out
    assert out.out.rstrip().endswith("runs/toys/report.html")
    assert "[2/2] avg_pool 1/4 + vision_remember: vr_toy_ocr" in out.err
    assert {path.name for path in OUT.iterdir()} >= {
        "grid.yaml",
        "environment.json",
        "cells",
        "records.parquet",
    }
    assert (OUT / "report.html").is_file()
    assert len(list(OUT.glob("images/*/*.png"))) == QUESTIONS
    for place, cell in enumerate(grid.cells):
        about = json.loads((folder(grid, place) / "cell.json").read_text())
        assert about["label"] == cell.label
        assert about["checkpoint"]["origin"] == "trained"
        assert about["parameters"]["total"] > about["parameters"]["method"] > 0
        assert about["prefill"]["gflops"] > about["prefill"]["tower_gflops"] > 0
        assert about["prefill"]["vision_tokens"] == cell.tokens
        assert about["environment"] == json.loads((OUT / "environment.json").read_text())
        assert {path.stem for path in folder(grid, place).glob("lmms/*.json")} == set(TASKS)
        assert not (folder(grid, place) / "error.txt").exists()
    assert not list(OUT.rglob("*.tmp"))


def test_records_hold_one_row_per_cell_and_question(grid: Grid) -> None:
    run_grid(grid)
    frame = records()
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == len(grid.cells) * len(TASKS) * QUESTIONS
    assert not frame.duplicated(["cell_id", "task", "doc_id"]).any()
    assert frame.groupby("task")["cluster"].nunique().tolist() == [QUESTIONS // 2] * 2
    assert set(frame.loc[frame["is_baseline"], "label"]) == {"mlp"}
    assert frame["score"].between(0, 1).all()
    assert frame["latency_ms"].gt(0).all()
    assert set(frame["kind"]) == {"long", "short"}
    for place in range(len(grid.cells)):
        for task, content in metrics(grid, place)["tasks"].items():
            rows = frame[(frame["cell_id"] == folder(grid, place).name) & (frame["task"] == task)]
            assert content["score"] == pytest.approx(100 * rows["score"].mean())
            assert content["score"] == pytest.approx(100 * content["lmms_eval"])
            assert (content["n"], content["coverage"], content["failures"]) == (QUESTIONS, 1.0, 0)


def test_a_session_beside_others_says_so_in_the_records_and_older_samples_count_as_alone(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Session.__init__
    monkeypatch.setattr(Session, "__init__", partialmethod(start, shared=True))
    run_grid(grid)
    assert records()["shared"].all()
    older = folder(grid, 0) / "samples.parquet"
    pd.read_parquet(older).drop(columns="shared").to_parquet(older)
    monkeypatch.setattr(Session, "__init__", start)
    run_grid(grid)
    assert tuple(records().columns) == COLUMNS
    assert records().groupby("cell_id", sort=False)["shared"].all().tolist() == [False, True]


def test_the_tower_sees_an_image_once_for_all_cells(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    stores: list[FeatureStore] = []
    start = FeatureStore.__init__
    monkeypatch.setattr(FeatureStore, "__init__", lambda self, *a, **k: (stores.append(self), start(self, *a, **k))[1])
    run_grid(grid)
    assert [store.encoded for store in stores] == [len(TASKS) * QUESTIONS // 2]


def features_of(grid: Grid, out: Path = OUT) -> list[dict[str, int]]:
    cells = [out / "cells" / cell_id(cell, grid) for cell in grid.cells]
    return [json.loads((cell / "cell.json").read_text())["features"] for cell in cells]


def test_a_later_run_finds_what_an_earlier_one_has_encoded(grid: Grid, root: Path) -> None:
    images, asked = len(TASKS) * QUESTIONS // 2, len(TASKS) * QUESTIONS
    assert run_grid(grid) == 0
    assert features_of(grid) == [{"encoded": images, "found": asked - images}, {"encoded": 0, "found": asked}]
    assert len(list((root / "home" / "vision").rglob("*.safetensors"))) == images
    assert run_grid(grid, Path("runs/later")) == 0
    assert features_of(grid, Path("runs/later")) == [{"encoded": 0, "found": asked}] * 2
    for file in (root / "home" / "vision").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    assert run_grid(grid, Path("runs/damaged")) == 0
    assert run_grid(grid, Path("runs/without"), features="off") == 0
    assert features_of(grid, Path("runs/damaged")) == features_of(grid, Path("runs/without")) == features_of(grid)
    columns = ["cell_id", "task", "doc_id", "answer", "score", "new_tokens"]
    for name in ("later", "damaged", "without"):
        other = pd.read_parquet(f"runs/{name}/records.parquet")
        pd.testing.assert_frame_equal(records()[columns], other[columns])


def test_where_not_all_images_fit_they_are_walked_once_for_all_cells(
    grid: Grid, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_grid(grid, Path("runs/all"), features="off")
    capsys.readouterr()
    limit = 200_000
    monkeypatch.setattr("vr_eval.runs.evaluate.LIMIT_BYTES", limit)
    monkeypatch.setattr("vr_eval.models.feature_store.MEMORY_BESIDE_DISK_BYTES", 0)
    assert main(["run", grid.source, "--features", "kept", "--workers", "1"]) == 0
    err = capsys.readouterr().err
    assert "all cells answer a range of questions before the next, 2 in all" in err
    assert "is full" not in err
    assert sum(file.stat().st_size for file in (root / "kept").rglob("*.safetensors")) <= limit
    images, asked = len(TASKS) * QUESTIONS // 2, len(TASKS) * QUESTIONS
    looked_up = features_of(grid)
    assert [sum(features.values()) for features in looked_up] == [asked] * 2
    assert sum(features["encoded"] for features in looked_up) == images  # each once
    columns = ["cell_id", "task", "doc_id", "answer", "score", "new_tokens"]
    pd.testing.assert_frame_equal(records()[columns], pd.read_parquet("runs/all/records.parquet")[columns])


def test_features_are_kept_where_the_command_says(grid: Grid, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", grid.source, "--features", "kept", "--workers", "1"]) == 0
    assert f"kept up to 21.5 GB in {root / 'kept'}" in capsys.readouterr().err
    assert list((root / "kept").rglob("*.safetensors"))
    assert not (root / "home" / "vision").exists()
    assert main(["run", grid.source, "--features", "off", "--out", "runs/off", "--workers", "1"]) == 0
    assert "none are kept on disk" in capsys.readouterr().err
    assert not (root / "home" / "vision").exists()
    (root / "file").touch()
    assert main(["run", grid.source, "--features", "file", "--out", "runs/file"]) == 2
    assert "this is a file, not a folder" in capsys.readouterr().err


def test_the_batch_size_changes_no_answer(grid: Grid) -> None:
    run_grid(grid, OUT, batch_size=1)
    run_grid(grid, Path("runs/other"), batch_size=8)
    columns = ["cell_id", "task", "doc_id", "answer", "score", "new_tokens"]
    other = pd.read_parquet("runs/other/records.parquet")
    pd.testing.assert_frame_equal(records()[columns], other[columns])


def test_a_second_run_asks_nothing_and_says_so(
    grid: Grid, asked: list[Question], capsys: pytest.CaptureFixture[str]
) -> None:
    run_grid(grid)
    before, count = records(), len(asked)
    assert run_grid(grid) == 0
    assert len(asked) == count
    assert "all 2 cells are evaluated already" in capsys.readouterr().err
    pd.testing.assert_frame_equal(records(), before)


def test_a_damaged_file_of_a_cell_is_one_error_and_the_next_run_writes_it_again(
    grid: Grid, asked: list[Question], capsys: pytest.CaptureFixture[str]
) -> None:
    run_grid(grid)
    about = folder(grid, 0) / "cell.json"
    before, answered = json.loads(about.read_text()), len(asked)
    about.write_text(json.dumps({**before, "tokens": "many"}))
    assert main(["report", str(OUT)]) == 2
    assert f"{about}: tokens: this value does not fit (given: 'many'" in capsys.readouterr().err
    assert run_grid(grid) == 0
    assert json.loads(about.read_text())["tokens"] == before["tokens"]
    assert len(asked) == answered


def test_broken_samples_are_one_error_that_says_how_to_go_on(grid: Grid, asked: list[Question]) -> None:
    run_grid(grid)
    before, answered = records(), len(asked)
    samples = folder(grid, 0) / "samples.parquet"
    samples.write_bytes(samples.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{samples}: the file is broken"):
        run_grid(grid)
    samples.unlink()  # as its hint says
    assert run_grid(grid) == 0
    assert len(asked) == answered
    columns = ["cell_id", "task", "doc_id", "answer", "score", "new_tokens"]
    pd.testing.assert_frame_equal(records()[columns], before[columns])


def test_an_interrupted_run_goes_on_where_it_stopped(
    grid: Grid, asked: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, calls = Answerer._generate_at_once, []

    def interrupted(self: Answerer, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Answerer, "_generate_at_once", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_grid(grid)
    kept = (folder(grid, 0) / "answers.jsonl").read_text().count("\n")
    assert kept == 3 * grid.batch_size
    asked.clear()
    assert run_grid(grid) == 0
    assert len(asked) == len(grid.cells) * len(TASKS) * QUESTIONS - kept
    interrupted_records = records()
    shutil.rmtree(OUT)
    run_grid(grid)
    columns = ["task", "doc_id", "answer", "score"]
    pd.testing.assert_frame_equal(interrupted_records[columns], records()[columns])


def test_a_corrupt_image_lowers_the_coverage_and_is_asked_again(grid: Grid, root: Path, asked: list[Question]) -> None:
    write_tasks(root, corrupt=(3,))
    assert run_grid(grid) == 0
    frame = records()
    failed = frame[frame["failure"] != ""]
    assert set(zip(failed["task"], failed["doc_id"], strict=True)) == {(TASKS[1], 3)}
    assert failed["score"].isna().all()
    content = metrics(grid, 0)["tasks"][TASKS[1]]
    scores = frame[(frame["cell_id"] == folder(grid, 0).name) & (frame["task"] == TASKS[1])]["score"]
    assert content["score"] == pytest.approx(100 * scores.mean())
    assert (content["failures"], content["n"], content["coverage"]) == (1, QUESTIONS - 1, (QUESTIONS - 1) / QUESTIONS)
    write_tasks(root)
    asked.clear()
    assert run_grid(grid) == 0
    # It is another question now, so it is asked in the batch that a run without a past would ask.
    assert len(asked) == 2 * grid.batch_size
    assert {question.task for question in asked} == {TASKS[1]}
    assert (records()["failure"] == "").all()
    assert len((folder(grid, 0) / "answers.jsonl").read_text().splitlines()) == len(TASKS) * QUESTIONS + 1


def test_a_corrupt_image_is_asked_again_alone(grid: Grid, root: Path, asked: list[Question]) -> None:
    write_tasks(root, corrupt=(3,))
    run_grid(grid)
    asked.clear()
    assert run_grid(grid) == 0
    assert [(question.task, question.doc_id) for question in asked] == [(TASKS[1], 3)] * 2


def damaged(grid: Grid, how: str) -> Path:
    """Break the checkpoint of the first cell."""
    checkpoint = trained_checkpoint(grid.cells[0])
    weights = checkpoint / "model.safetensors"
    if how.startswith("truncated"):
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "with one flipped bit":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif how == "of another method":
        shutil.rmtree(checkpoint)
        shutil.copytree(trained_checkpoint(grid.cells[1]), checkpoint)
    else:
        shutil.rmtree(checkpoint)
        write_checkpoint(checkpoint, checkpoint_id(grid.cells[0]), "mlp", 1, "vision_remember")
        config = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps(config | {"refusion": "none"}))
    if how in ("with other weights", "truncated, without hashes"):
        manifest = checkpoint / "checkpoint.json"
        manifest.write_text(json.dumps({"checkpoint_id": checkpoint_id(grid.cells[0])}))
    return checkpoint


@pytest.mark.parametrize(
    ("how", "message", "code"),
    [
        ("truncated", "model.safetensors: this file is damaged", 2),
        ("with one flipped bit", "model.safetensors: this file is damaged", 2),
        ("truncated, without hashes", "the checkpoint cannot be loaded", 1),
        ("of another method", "this checkpoint is of another cell", 1),
        ("with other weights", "the weights do not fit the model", 1),
    ],
)
def test_a_cell_with_a_bad_checkpoint_fails_and_the_other_does_not(
    grid: Grid, capsys: pytest.CaptureFixture[str], how: str, message: str, code: int
) -> None:
    checkpoint = damaged(grid, how)
    assert run_grid(grid) == code
    said = capsys.readouterr().err
    assert f"mlp: FAILED: {checkpoint}" in said
    assert message in said
    assert (
        f"1 of 2 cells failed; the same command tries them again:\n  mlp: see {folder(grid, 0) / 'error.txt'}" in said
    )
    assert "Traceback" in (folder(grid, 0) / "error.txt").read_text()
    about = json.loads((folder(grid, 0) / "cell.json").read_text())
    assert (about["status"], message in about["failure"]) == ("failed", True)
    assert set(records()["label"]) == {"avg_pool 1/4 + vision_remember"}
    shutil.rmtree(checkpoint)
    write_checkpoints(grid.cells[:1])
    assert run_grid(grid) == 0
    assert not (folder(grid, 0) / "error.txt").exists()
    assert len(set(records()["label"])) == 2


def test_a_lost_worker_s_reason_stands_in_place_of_an_older_one(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = "killed by signal 15"
    monkeypatch.setattr(InlineExecutor, "poll", lambda self, seconds: [Ended(self._next, None, lost)])
    monkeypatch.setattr(InlineExecutor, "room", lambda self: 1)
    assert run_grid(grid) == 1
    lost = "killed by signal 9"
    assert run_grid(grid) == 1
    said = (folder(grid, 0) / "error.txt").read_text()
    assert "signal 9" in said
    assert "signal 15" not in said


def test_a_model_with_a_bug_is_a_failed_cell(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bug(self: Answerer, *arguments: Any) -> Any:
        raise IndexError("out of range")

    monkeypatch.setattr(Answerer, "_generate_at_once", bug)
    assert run_grid(grid) == 1
    said = capsys.readouterr()
    assert said.err.count("FAILED: all of the first 12 questions failed: IndexError: out of range") == 2
    assert said.out == ""
    assert not (OUT / "records.parquet").exists()


def test_a_missing_checkpoint_is_trained_once_and_used(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train_cell(cell: Any, place: Path, device: str, spread: Any, track: Any) -> None:
        trained.append(cell.label)
        write_checkpoint(place, checkpoint_id(cell), cell.projector, cell.ratio, cell.refusion)

    monkeypatch.setattr("vr_eval.training.cell.train_cell", train_cell)
    shutil.rmtree(trained_checkpoint(grid.cells[0]))
    assert train_grid(grid) == 0
    assert run_grid(grid) == 0
    assert train_grid(grid) == 0
    assert trained == ["mlp"]


def test_a_training_that_fails_is_a_failed_cell(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train_cell(cell: Any, place: Path, device: str, spread: Any, track: Any) -> None:
        raise VrEvalError("training stopped at step 3: the loss is nan.")

    monkeypatch.setattr("vr_eval.training.cell.train_cell", train_cell)
    shutil.rmtree(trained_checkpoint(grid.cells[0]))
    assert (run_grid(grid), train_grid(grid)) == (1, 1)
    assert capsys.readouterr().err.count("mlp: FAILED: training stopped at step 3: the loss is nan.") == 2


def test_a_full_disk_ends_the_run_and_keeps_what_is_there(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, asked: list[Question]
) -> None:
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "answers.jsonl":
            calls.append(1)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="the disk is full") as caught:
            run_grid(grid)
    assert "run the same command again" in str(caught.value)
    assert len(calls) == 3
    asked.clear()
    assert run_grid(grid) == 0
    assert len(asked) == 2 * len(TASKS) * QUESTIONS - 3 * grid.batch_size


@pytest.mark.parametrize(
    ("seam", "name", "tokens"), [("pruning", "fastv", 144), ("image", "downsample", 36)], ids=["fastv", "downsample"]
)
def test_training_free_methods_share_a_checkpoint_and_give_other_answers(
    root: Path, seam: str, name: str, tokens: int
) -> None:
    text = GRID.replace(WITH_REFUSION, f"  - {{projector: mlp, {seam}: {name}}}")
    text = text.replace("baseline: {projector: mlp}", f"baseline: {{projector: mlp, {seam}: none}}")
    grid = toy_grid(root, text)
    assert checkpoint_id(grid.cells[0]) == checkpoint_id(grid.cells[1])
    write_checkpoints(grid.cells[:1])
    assert run_grid(grid) == 0
    found = dict(iter(records().groupby(seam)))
    assert found.keys() == {"none", name}
    assert found["none"]["answer"].tolist() != found[name]["answer"].tolist()
    assert set(found[name]["tokens"]) == {tokens}
    # Alone, one by one, and without another cell's features in the store, it answers the same.
    only = text.replace("  - {projector: mlp}\n", "").replace(f"baseline: {{projector: mlp, {seam}: none}}\n", "")
    assert run_grid(toy_grid(root, only), Path("runs/alone"), batch_size=1) == 0
    alone = pd.read_parquet("runs/alone/records.parquet")
    assert alone["answer"].tolist() == found[name]["answer"].tolist()


def test_a_limit_is_another_cell_and_old_cells_are_left_out_but_kept(grid: Grid, root: Path) -> None:
    run_grid(grid)
    few = toy_grid(root, limit=4)
    assert run_grid(few) == 0
    assert len(records()) == 2 * len(TASKS) * 4
    assert len(list(OUT.glob("cells/*/metrics.json"))) == 4
    assert len(list(OUT.glob("cells/*/cell.json"))) == 2
    assert run_grid(grid) == 0
    assert len(records()) == 2 * len(TASKS) * QUESTIONS
    assert {path.parent.name for path in OUT.glob("cells/*/cell.json")} == {cell_id(cell, grid) for cell in grid.cells}


def test_a_cell_that_two_seeds_share_is_named_with_its_seed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = toy_grid(root, GRID.replace("seeds: [0]", "seeds: [0, 1]"), limit=2)
    write_checkpoints(grid.cells)
    assert run_grid(grid) == 0
    assert "[2/4] mlp (seed 1): " in capsys.readouterr().err
    assert records().groupby("seed")["is_baseline"].any().tolist() == [True, True]


def test_an_answer_with_escapes_reaches_no_terminal(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bug(self: Answerer, *arguments: Any) -> Any:
        raise ValueError("\x1b]0;title\x07\x1b[31mred <script>")

    monkeypatch.setattr(Answerer, "_generate_at_once", bug)
    assert run_grid(grid) == 1
    assert "\x1b" not in capsys.readouterr().err
