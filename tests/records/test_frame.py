"""Records as a frame: what older files lack, and what no cell can be made of."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from tests.report.fixture_run import make_records
from vr_eval.errors import InputError
from vr_eval.records.columns import COLUMNS, SampleColumns
from vr_eval.records.frame import cells_of, check_records, read_records, sample_frame, with_cell, write_frame


@pytest.fixture
def records() -> pd.DataFrame:
    return make_records(per_task=3, failures=0)


def test_what_a_folder_keeps_becomes_the_records_again(records: pd.DataFrame) -> None:
    checked = check_records(records)
    cell = next(cells_of(checked, "file"))
    own = checked[checked.cell_id == cell.cell_id].reset_index(drop=True)
    names = list(COLUMNS[COLUMNS.index("suite") :])
    samples = [SampleColumns(**{str(k): v for k, v in row.items()}) for row in own[names].to_dict("records")]
    kept = sample_frame(samples)
    assert "suite" not in kept
    suites = dict(zip(own.task, own.suite, strict=True))
    again = with_cell(kept, cell, suites)
    assert tuple(again.columns) == COLUMNS
    pd.testing.assert_frame_equal(again, own[list(COLUMNS)], check_dtype=False, check_index_type=False)


def test_older_records_are_of_real_weights(records: pd.DataFrame, tmp_path: Path) -> None:
    assert "weights" not in records
    write_frame(records, tmp_path / "records.parquet")
    assert set(read_records(tmp_path).weights) == {"real"}
    mixed = records.assign(weights=["random", *[None] * (len(records) - 1)])
    assert set(check_records(mixed).weights) == {"random", "real"}


@pytest.mark.parametrize(
    ("column", "value"), [("seed", math.nan), ("ratio", 1.5), ("tokens", math.inf), ("options", "[]"), ("options", "{")]
)
def test_what_no_cell_can_be_made_of_is_an_error_that_names_the_column(
    records: pd.DataFrame, column: str, value: object
) -> None:
    checked = check_records(records.assign(**{column: value}))
    with pytest.raises(InputError, match=f"the file: {column}: "):
        list(cells_of(checked, "the file"))
