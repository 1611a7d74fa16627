"""The files of a run as frozen records: older ones are read, and damage is named by file and key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vr_eval.config.cell import SEAMS
from vr_eval.environment import Checkout, Environment
from vr_eval.errors import InputError
from vr_eval.records import columns
from vr_eval.records.cell import CellRecord, MetricsRecord, Origin, TaskMetrics
from vr_eval.records.costs import Parameters, PrefillFlops
from vr_eval.records.folder import RunFolder
from vr_eval.records.json_file import plain, read_json, write_json

DEMO = Path(__file__).resolve().parents[2] / "reports" / "demo"
COLUMNS: dict[str, Any] = {
    "cell_id": "a" * 16,
    "checkpoint_id": "b" * 16,
    "label": "avg_pool 1/4",
    "backbone": "micro",
    "projector": "avg_pool",
    "ratio": 4,
    "refusion": "none",
    "pruning": "none",
    "image": "none",
    "options": '{"avg_pool": {"depth": 2}}',
    "seed": 0,
    "tokens": 36,
    "is_baseline": False,
    "weights": "real",
}
ENVIRONMENT = Environment(
    "r", "2026-11-23T10:15:00+00:00", "vr-eval", Checkout("c", True), {"a": None}, "p", "cpu", 2, None
)
DONE = CellRecord(
    **COLUMNS,
    status="done",
    identity={"tasks": [["a", "1"]], "limit": None},
    recipe={"steps": 3, "data": None},
    checkpoint=Origin("b" * 16, "random", None, {}),
    data_commits={},
    parameters=Parameters(5, 2, 1, 3),
    prefill=PrefillFlops(0.5, 0.25, 36, 32),
    evaluate_seconds=1.5,
    batch_size=8,
    device="cpu",
    decoding={},
    loading={"bits": None},
    environment=ENVIRONMENT,
)
METRICS = MetricsRecord("a" * 16, "r", 1, {"t": TaskMetrics("anls", None, 0, 1, 0.0, 1, 0.0)})


@pytest.mark.parametrize("record", [DONE, CellRecord(**COLUMNS, status="failed", failure="boom"), METRICS, ENVIRONMENT])
def test_what_is_written_is_read(tmp_path: Path, record: Any) -> None:
    write_json(record, tmp_path / "file.json")
    assert read_json(type(record), tmp_path / "file.json") == record


def test_keys_stand_in_order_and_what_was_not_recorded_is_left_out(tmp_path: Path) -> None:
    failed = CellRecord(**COLUMNS, status="failed", failure="boom")
    failed.write(tmp_path / "cell.json")
    expected = {**COLUMNS, "status": "failed", "failure": "boom"}
    assert (tmp_path / "cell.json").read_text() == json.dumps(expected, indent=1) + "\n"
    written = plain(DONE)
    assert list(written)[: len(COLUMNS)] == list(COLUMNS)
    assert written["checkpoint"] == {"id": "b" * 16, "origin": "random", "path": None, "sources": {}}
    assert "failure" not in written
    assert "official" not in plain(METRICS)["tasks"]["t"]


@pytest.mark.parametrize(
    "path", sorted(DEMO.glob("*/cells/*/*.json")), ids=lambda path: f"{path.parts[-4]}-{path.stem}"
)
def test_files_of_older_versions_are_read_and_lose_nothing(path: Path) -> None:
    kind = CellRecord if path.name == "cell.json" else MetricsRecord
    before, after = json.loads(path.read_text()), plain(kind.read(path))
    assert before == {key: value for key, value in after.items() if key in before or key not in columns.OLDER}


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "missing": (lambda c: c.pop("label"), "label: this key is missing"),
    "missing below": (lambda c: c["checkpoint"].pop("path"), "checkpoint.path: this key is missing"),
    "unknown": (lambda c: c.update(labels="x"), "labels: unknown key (did you mean 'label'?)"),
    "unknown below": (lambda c: c["prefill"].update(flops=1), "prefill.flops: unknown key"),
    "text for a number": (
        lambda c: c.update(ratio="4"),
        "ratio: this value does not fit (given: '4'; allowed: a whole",
    ),
    "true for a number": (lambda c: c.update(seed=True), "seed: this value does not fit (given: True"),
    "null for a text": (lambda c: c.update(backbone=None), "backbone: this value does not fit (given: None"),
    "another word": (
        lambda c: c.update(status="half"),
        "status: this value does not fit (given: 'half'; allowed: done",
    ),
    "a list for an object": (lambda c: c.update(environment=[]), "environment: this value does not fit (given: []"),
    "below a mapping": (lambda c: c["environment"]["versions"].update(a=1), "environment.versions.a: this value does"),
    "options": (lambda c: c.update(options="{"), "options: this is no JSON object of objects"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_an_error_that_names_file_and_key(tmp_path: Path, how: str) -> None:
    damage, message = DAMAGES[how]
    content = plain(DONE)
    damage(content)
    path = tmp_path / "cell.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        CellRecord.read(path)
    (problem,) = caught.value.problems
    assert problem.render().startswith(f"{path}: {message}")


@pytest.mark.parametrize("text", ["", "{", "[]", "\ufeff{}", "3"])
def test_a_file_that_is_no_object_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "cell.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"cell\.json"):
        CellRecord.read(tmp_path / "cell.json")


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"cell_id": 3, "tasks": {"t": {"metric": "m"}}}')
    with pytest.raises(InputError) as caught:
        MetricsRecord.read(path)
    keys = {problem.key for problem in caught.value.problems}
    assert {"cell_id", "run_id", "failures", "tasks.t.score", "tasks.t.coverage"} <= keys


def test_a_cell_is_complete_if_all_answered_and_its_records_are_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).cell("x")
    assert not folder.complete
    DONE.write(folder.aside)
    folder.samples.touch()
    METRICS.write(folder.metrics)
    assert not folder.complete
    MetricsRecord("a", "r", 0, {}).write(folder.metrics)
    assert folder.complete
    folder.about.write_text("{")
    assert not folder.complete


def test_a_column_is_named_once() -> None:
    """Constants are names of fields; every seam has a column."""
    constants = {value for name, value in vars(columns).items() if isinstance(value, str) and value == name.lower()}
    assert constants - {"random", "none"} <= set(columns.COLUMNS)
    assert set(SEAMS) <= set(columns.CELL_COLUMNS)
    assert len(set(columns.COLUMNS)) == len(columns.COLUMNS)
