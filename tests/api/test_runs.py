"""Grids and runs from Python."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import vr_eval
from tests.report.fixture_run import make_records, write_run
from vr_eval.api.runs import CellsFailedError
from vr_eval.config.grid import Grid
from vr_eval.errors import InputError
from vr_eval.runs import execute
from vr_eval.runs.executors.options import WorkerOptions
from vr_eval.tracking import Tracking


def test_records_and_report_of_a_run(tmp_path: Path) -> None:
    records = make_records()
    run_dir = write_run(tmp_path / "projectors", records, images=False)
    read = vr_eval.read_records(str(run_dir))
    assert len(read) == len(records)
    assert read.groupby("label")["score"].mean().to_dict() == pytest.approx(
        records.groupby("label")["score"].mean().to_dict()
    )
    assert vr_eval.report(str(run_dir)) == run_dir / "report.html"
    assert "<title>" in (run_dir / "report.html").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="there is no such run directory"):
        vr_eval.read_records(tmp_path / "none")


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_run_gives_its_folder_or_says_that_cells_failed(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path, Tracking]] = []

    def run_grid(
        grid: Grid,
        out: Path,
        device: str,
        batch_size: int | None,
        track: Tracking,
        options: WorkerOptions,
        features: str | None,
    ) -> int:
        assert options.alone
        assert features is None
        asked.append((grid.name, out, track))
        return code

    monkeypatch.setattr(execute, "run_grid", run_grid)
    run_dir = tmp_path / "mine"
    if code == 0:
        assert vr_eval.run("projectors", str(run_dir), track="tensorboard") == run_dir
        assert vr_eval.run(vr_eval.load_grid("projectors", limit=3)) == Path("runs/projectors")
        assert asked[0] == ("projectors", run_dir, Tracking("tensorboard", tmp_path / "mine.track", "projectors"))
        return
    with pytest.raises(CellsFailedError, match="mine") as caught:
        vr_eval.run("projectors", run_dir)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.exit_code, again.run_dir, str(again)) == (code, run_dir, str(caught.value))
