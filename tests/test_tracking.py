"""Trackers: real event files, a run folder of wandb without network, and a missing package."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from vr_eval import tracking
from vr_eval.cli import main
from vr_eval.errors import InputError
from vr_eval.training.trainer import Group, Schedule, fit


def train(track: tracking.Tracking, out: Path) -> None:
    """20 steps of a line."""

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": ((self.slope(x) - labels) ** 2).mean()}

    model, x = Line(), torch.linspace(0, 1, 16)[:, None]
    rows = [{"x": one, "labels": 3 * one} for one in x]
    groups = [Group(list(model.parameters()), 0.1)]
    fit(
        model,
        rows,  # type: ignore[arg-type]
        lambda some: {key: torch.stack([row[key] for row in some]) for key in ("x", "labels")},
        Schedule("stage1", 20, 4, 0.0),
        groups,
        out,
        0,
        "cpu",
        track=track,
    )


def finished(run_dir: Path) -> None:
    """A run's report, as far as trackers take it."""
    run_dir.mkdir(parents=True)
    (run_dir / "report.html").write_text("<p>report</p>")
    (run_dir / "table.md").write_text("| Method | Average |\n")
    (run_dir / "table.csv").write_text("label,average\nmlp,50.0\navg_pool 1/4,\n")


def written(run: Path, content: bytes) -> bool:
    """Whether wandb's own process, which may be a moment behind, writes `content` to a run's file."""
    for _ in range(100):
        if any(content in path.read_bytes() for path in run.glob("run-*.wandb")):
            return True
        time.sleep(0.1)
    return False


def test_tensorboard_holds_the_curve_and_the_table(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs/toys"
    track = tracking.tracking("tensorboard", run_dir, "toys")
    train(track.named("avg_pool 1/4", "seed=0", "stage1"), tmp_path / "out")
    finished(run_dir)
    track.keep_results(run_dir)
    assert sorted(path.name for path in (tmp_path / "runs/toys.track").iterdir()) == [
        "avg_pool-1-4-seed=0-stage1",
        "report",
    ]
    events = EventAccumulator(str(tmp_path / "runs/toys.track/avg_pool-1-4-seed=0-stage1")).Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == [10, 20]
    assert losses[1].value < losses[0].value
    report = EventAccumulator(str(tmp_path / "runs/toys.track/report")).Reload()
    assert b"| Method | Average |" in report.Tensors("table/text_summary")[0].tensor_proto.string_val[0]
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_wandb_writes_here_and_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run_dir = tmp_path / "runs/toys"
    track = tracking.tracking("wandb", run_dir, "toys")
    train(track.named("mlp"), tmp_path / "out")
    finished(run_dir)
    track.keep_results(run_dir)
    runs = sorted((tmp_path / "runs/toys.track/wandb").glob("offline-run-*"))
    assert len(runs) == 2
    for run, content in zip(runs, (b"train/loss", b"report.html"), strict=True):
        assert written(run, content)
    assert "WANDB_MODE" not in os.environ


def test_a_training_that_failed_ends_its_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer would go on in a run of wandb that is still open: the next cell's curve in the one of this."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "disabled")
    track = tracking.tracking("wandb", tmp_path / "runs/toys", "toys").named("mlp")
    opened = []

    def fail() -> None:
        with track.curves():
            opened.append(wandb.init())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert opened
    assert wandb.run is None


def test_nothing_is_kept_unless_asked(tmp_path: Path) -> None:
    track = tracking.tracking("none", tmp_path / "runs/toys", "toys")
    train(track.named("mlp"), tmp_path / "out")
    track.keep_results(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert not [path for path in (tmp_path / "out").rglob("*") if "events" in path.name]


def test_a_package_that_is_missing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # tensorboardX draws the Trainer's curves, but no report: it does not do in place of tensorboard.
    monkeypatch.setattr(tracking, "find_spec", lambda name: object() if name == "tensorboardX" else None)
    with pytest.raises(InputError, match="needs the package tensorboard"):
        tracking.tracking("tensorboard", Path("runs/toys"), "toys")
    assert main(["train", "projectors", "--track", "trackio"]) == 2
    assert "pip install 'vr-eval[trackio]'" in capsys.readouterr().err
    with pytest.raises(InputError, match="unknown tracker"):
        tracking.tracking("tensorbored", Path("runs/toys"), "toys")
