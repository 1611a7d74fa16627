"""One stage: an interrupted run ends where an uninterrupted one does, and a loss that is no number stops it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerState

from vr_eval.errors import VrEvalError
from vr_eval.training.trainer import Group, Schedule, StageTrainer, fit


class Line(nn.Module):
    """Fits y = 3x; a second layer must stay as it is unless a group holds it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.learned, self.frozen = nn.Linear(1, 1), nn.Linear(1, 1)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.frozen(self.learned(x)) - labels).pow(2).mean()}


class Points(Dataset[dict[str, Any]]):
    def __init__(self, broken_at: int | None = None) -> None:
        self.broken_at, self.asked = broken_at, 0

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.asked += 1
        if self.broken_at is not None and self.asked > self.broken_at:
            raise KeyboardInterrupt
        return {"x": index / 64}


def collate(rows: Any) -> dict[str, Tensor]:
    x = torch.tensor([[row["x"]] for row in rows])
    return {"x": x, "labels": 3 * x}


STAGE = Schedule("line", steps=30, batch_size=8, warmup=0.1, save_every=10)


def train(out: Path, dataset: Points) -> tuple[Line, list[dict[str, float]]]:
    model = Line()
    return model, fit(model, dataset, collate, STAGE, [Group(list(model.learned.parameters()), 0.1)], out, seed=3)


def test_an_interrupted_run_continues_to_the_same_weights_and_the_same_log(tmp_path: Path) -> None:
    whole, log = train(tmp_path / "whole", Points())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", Points(broken_at=8 * 17))
    resumed, resumed_log = train(tmp_path / "cut", Points())
    assert torch.equal(whole.learned.weight, resumed.learned.weight)
    assert [(e["step"], e["loss"]) for e in log] == [(e["step"], e["loss"]) for e in resumed_log]
    assert [e["step"] for e in log] == [10, 20, 30]


@pytest.mark.parametrize("killed_at", [10, 20, 30])
@pytest.mark.parametrize("writing", ["save_model", "_save_optimizer_and_scheduler", "_save_rng_state", "state"])
def test_a_run_that_was_killed_while_it_wrote_a_checkpoint_continues_from_the_one_before(
    writing: str, killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, log = train(tmp_path / "whole", Points())

    def killed(self: Any, *arguments: Any, **options: Any) -> None:
        state = self if writing == "state" else self.state
        if state.global_step == killed_at:
            if writing == "state":
                Path(arguments[0]).write_text('{"best_gl')
            raise KeyboardInterrupt
        return write(self, *arguments, **options)

    owner, name = (TrainerState, "save_to_json") if writing == "state" else (StageTrainer, writing)
    write = getattr(owner, name)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut", Points())
    assert (tmp_path / f"cut/checkpoint-{killed_at}").is_dir() or writing == "save_model"
    resumed, resumed_log = train(tmp_path / "cut", Points())
    assert torch.equal(whole.learned.weight, resumed.learned.weight)
    assert [(e["step"], e["loss"]) for e in log] == [(e["step"], e["loss"]) for e in resumed_log]


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    first, _ = train(tmp_path, Points())
    again, log = train(tmp_path, Points(broken_at=0))
    assert torch.equal(first.learned.weight, again.learned.weight)
    assert log


def test_only_the_groups_parameters_change(tmp_path: Path) -> None:
    before = Line()
    after, _ = train(tmp_path, Points())
    assert torch.equal(before.frozen.weight, after.frozen.weight)
    assert not torch.equal(before.learned.weight, after.learned.weight)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    calls = 0

    def poisoned(rows: Any) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        given = collate(rows)
        return {**given, "labels": given["labels"] * (float("nan") if calls > 15 else 1)}

    model = Line()
    with pytest.raises(VrEvalError, match=r"step 20: the loss is nan.*last good checkpoint"):
        fit(model, Points(), poisoned, STAGE, [Group(list(model.learned.parameters()), 0.1)], tmp_path, seed=3)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-10"]


@pytest.mark.parametrize(
    ("save_every", "bad_from", "step", "kept"), [(10, 27, 28, "20"), (7, 9, 10, "7"), (7, 12, 14, "7")]
)
def test_no_checkpoint_is_written_that_was_not_looked_at(
    tmp_path: Path, save_every: int, bad_from: int, step: int, kept: str
) -> None:
    calls = 0

    def poisoned(rows: Any) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        given = collate(rows)
        return {**given, "labels": given["labels"] * (float("nan") if calls >= bad_from else 1)}

    model = Line()
    stage = Schedule("line", steps=28, batch_size=8, warmup=0.1, save_every=save_every)
    with pytest.raises(VrEvalError, match=f"step {step}: the loss is nan"):
        fit(model, Points(), poisoned, stage, [Group(list(model.learned.parameters()), 0.1)], tmp_path, seed=3)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{kept}"]


def test_muon_and_adamw_resume_together(tmp_path: Path) -> None:
    def run(out: Path, dataset: Points) -> Line:
        model = Line()
        learned = model.learned
        groups = [Group([learned.bias], 0.1), Group([learned.weight], 0.1, muon=True)]
        fit(model, dataset, collate, STAGE, groups, out, seed=3)
        return model

    whole = run(tmp_path / "whole", Points())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Points(broken_at=8 * 17))
    resumed = run(tmp_path / "cut", Points())
    assert torch.equal(whole.learned.weight, resumed.learned.weight)
    assert torch.equal(whole.learned.bias, resumed.learned.bias)
    before = Line().learned
    assert not torch.equal(whole.learned.weight, before.weight)
    assert not torch.equal(whole.learned.bias, before.bias)
