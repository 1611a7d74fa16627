"""The column of a prefill's operations, from what a run recorded about its cells."""

from __future__ import annotations

from pathlib import Path

from tests.report.fixture_run import CELLS, FakeCell, make_records, write_run
from vr_eval.measure.question import PROMPT_TOKENS
from vr_eval.reporting import build, run_table
from vr_eval.reporting.provenance import DEFINITIONS


def about(cell: FakeCell, **more: object) -> dict[str, object]:
    return {**cell.columns, "status": "done", **more}


def test_operations_stand_beside_the_parameters_with_the_towers_part(tmp_path: Path) -> None:
    records = make_records(per_task=6, failures=0)
    prefill = {"text_tokens": 32, "vision_tokens": 36, "tower_gflops": 0.1834}
    cells = [
        about(
            cell,
            parameters={"total": 10_000 * (place + 1), "projector": 2, "refusion": 1, "method": 3},
            prefill={**prefill, "gflops": 0.2 + 900.1 * place},
        )
        for place, cell in enumerate(CELLS)
    ]
    table = run_table(write_run(tmp_path, records, images=False, cells=cells))
    keys = [column.key for column in table.columns]
    assert keys.index("gflops") == keys.index("parameters") + 1
    by_label = {row.label: row.entries[keys.index("gflops")] for row in table.rows}
    assert (by_label[CELLS[0].label].text, by_label[CELLS[0].label].small) == ("0.2", "0.183 tower")
    assert by_label[CELLS[2].label].text == "1,800"


def test_a_run_from_before_they_were_recorded_still_has_a_report_without_them(tmp_path: Path) -> None:
    records = make_records(per_task=6, failures=0)
    run = write_run(tmp_path, records, images=False, cells=[about(cell) for cell in CELLS])
    assert "gflops" not in [column.key for column in run_table(run).columns]
    assert build(run).is_file()


def test_cells_without_a_record_show_nothing(tmp_path: Path) -> None:
    records = make_records(per_task=6, failures=0)
    cells = [about(cell) for cell in CELLS]
    cells[0]["prefill"] = {"gflops": 1.5, "tower_gflops": 1, "vision_tokens": 36, "text_tokens": 32}
    table = run_table(write_run(tmp_path, records, images=False, cells=cells))
    assert (
        sorted((entry.text, entry.small) for entry in table.column("gflops")) == [("1.5", "1 tower")] + [("–", "")] * 6
    )


def test_the_definition_names_the_prompts_length() -> None:
    (text,) = [text for term, text, _ in DEFINITIONS if term == "GFLOPs"]
    assert f"{PROMPT_TOKENS} text tokens" in text
