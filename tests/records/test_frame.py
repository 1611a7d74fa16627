"""Records as a frame: what older files lack, and what no cell can be made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

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


def test_older_records_and_samples_were_measured_alone(records: pd.DataFrame) -> None:
    checked = check_records(records)
    assert checked.shared.dtype == bool
    assert not checked.shared.any()
    cell = next(cells_of(checked, "file"))
    samples = records[records.cell_id == cell.cell_id].drop(columns=[*vars(cell).keys() & set(records), "suite"])
    assert "shared" not in samples
    assert with_cell(samples, cell, {}).shared.tolist() == [False] * len(samples)


@pytest.mark.parametrize("dtype", [object, "boolean", "category"])
def test_what_was_measured_beside_others_is_true_or_false_whatever_the_file_holds(
    records: pd.DataFrame, dtype: Any, tmp_path: Path
) -> None:
    values = pd.Series([True, False, None, *[None] * (len(records) - 3)], dtype=dtype)
    write_frame(records.assign(shared=values), tmp_path / "records.parquet")
    assert read_records(tmp_path).shared.tolist() == [True] + [False] * (len(records) - 1)
    text = check_records(records.assign(shared="<script>")).shared
    assert text.dtype == bool
    write_frame(records.assign(shared=[[1, 2]] * len(records)), tmp_path / "records.parquet")
    with pytest.raises(InputError, match="the file is broken"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"), [("seed", math.nan), ("ratio", 1.5), ("tokens", math.inf), ("options", "[]"), ("options", "{")]
)
def test_what_no_cell_can_be_made_of_is_an_error_that_names_the_column(
    records: pd.DataFrame, column: str, value: object
) -> None:
    checked = check_records(records.assign(**{column: value}))
    with pytest.raises(InputError, match=f"the file: {column}: "):
        list(cells_of(checked, "the file"))
