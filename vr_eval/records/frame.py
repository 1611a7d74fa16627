"""Records as a pandas frame: one row per cell and question, the one table that reports and your own code start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from vr_eval.errors import InputError, Problem
from vr_eval.files import atomic_target
from vr_eval.records.columns import (
    CELL_COLUMNS,
    CELL_ID,
    COLUMNS,
    DOC_ID,
    FAILURE,
    OLDER,
    SAMPLE_COLUMNS,
    SCORE,
    SUITE,
    TASK,
    WEIGHTS,
    CellColumns,
    SampleColumns,
    columns_of,
)
from vr_eval.records.folder import RunFolder
from vr_eval.records.json_file import RUN_AGAIN, plain

NO_REASON = "no score was recorded"


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write `frame` as parquet in one step. Raises InputError where the disk is full."""
    with atomic_target(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_samples(path: Path) -> pd.DataFrame:
    """The samples that a cell's folder keeps. Raises InputError where they cannot be read."""
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        hint = "Delete it: `vr-eval run` with the same grid writes it again from the answers that the cell has kept."
        raise InputError(Problem(f"the file is broken ({type(error).__name__})", str(path), hint=hint)) from error


def sample_frame(samples: Sequence[SampleColumns]) -> pd.DataFrame:
    """The samples of one cell as its folder keeps them: without their suite, which is the grid's."""
    frame = pd.DataFrame([plain(one) for one in samples], columns=list(SAMPLE_COLUMNS)).drop(columns=SUITE)
    whole = dict.fromkeys(set(columns_of("int")) & set(frame), "int64")
    return frame.astype({**whole, **dict.fromkeys(set(columns_of("float")) & set(frame), "float64")})


def with_cell(samples: pd.DataFrame, cell: CellColumns, suites: Mapping[str, str]) -> pd.DataFrame:
    """The records of one cell from the samples that its folder keeps; `suites` maps its tasks to theirs."""
    older = {name: meant for name, meant in OLDER.items() if name not in samples}
    return samples.assign(**{**older, SUITE: samples[TASK].map(suites), **plain(cell)})[list(COLUMNS)]


def read_records(run_dir: Path) -> pd.DataFrame:
    """The records of a run, checked.

    Raises:
        InputError: The run directory is missing, is none, or its records are broken.
    """
    if not run_dir.is_dir():
        raise InputError(Problem("there is no such run directory", file=str(run_dir)))
    table = RunFolder(run_dir).records
    if not table.is_file():
        hint = "Let `vr-eval run` finish first; the same command continues where it stopped."
        raise InputError(Problem("this is no run directory, or a run without results", file=str(table), hint=hint))
    try:
        records = check_records(pd.read_parquet(table), str(table))
    except (OSError, ValueError, pa.ArrowException) as error:
        message = f"the file is broken ({type(error).__name__})"
        raise InputError(Problem(message, file=str(table), hint=RUN_AGAIN)) from error
    if records[WEIGHTS].nunique() > 1:
        hint = "Take the folder of one of the two runs: `vr-eval run` never puts both into one."
        message = "cells on random and on real weights never stand in one report"
        raise InputError(Problem(message, file=str(table), hint=hint))
    return records


def check_records(records: pd.DataFrame, file: str = "records") -> pd.DataFrame:
    """A copy with every missing text empty, failed samples without a score, and each question of a cell only once.

    Raises:
        InputError: A column is missing or of another type, or a score lies outside of 0..1.
    """
    missing = [name for name in COLUMNS if name not in records.columns and name not in OLDER]
    if missing:
        raise InputError(Problem(f"columns are missing: {', '.join(missing)}", file=file))
    checked = records.copy()
    for name, meant in OLDER.items():
        checked[name] = _filled(checked[name], meant) if name in checked else meant
    for name in columns_of("str"):
        # A missing value in a text column is None, NaN or pd.NA, depending on who wrote the file.
        checked[name] = _filled(checked[name], "").astype(str).astype(object)
    for name in (*columns_of("int"), *columns_of("float")):
        try:
            checked[name] = pd.to_numeric(checked[name])
        except (ValueError, TypeError) as error:
            raise InputError(Problem("this column must hold numbers", file=file, key=name)) from error
    for name in columns_of("bool"):
        checked[name] = _filled(checked[name], False).astype(bool)
    checked = checked.dropna(subset=[DOC_ID]).drop_duplicates([CELL_ID, TASK, DOC_ID], keep="last")
    checked[SCORE] = checked[SCORE].astype(float).where(checked[FAILURE] == "")
    checked.loc[checked[SCORE].isna() & (checked[FAILURE] == ""), FAILURE] = NO_REASON
    outside = checked[(checked[SCORE] < 0) | (checked[SCORE] > 1)]
    if len(outside):
        task, score = str(outside[TASK].iloc[0]), float(outside[SCORE].iloc[0])
        message = f"scores of the task {task} are outside of their range"
        raise InputError(Problem(message, file=file, key=SCORE, given=score, allowed="0 to 1"))
    return checked.reset_index(drop=True)


def _filled(column: pd.Series, meant: object) -> pd.Series:
    """A column of whatever type with `meant` where a value is missing."""
    return column.astype(object).where(column.notna(), meant)


def cells_of(records: pd.DataFrame, file: str) -> Iterator[CellColumns]:
    """What checked records say about their cells, in order.

    Raises:
        InputError: A cell lacks a number, or its options are none.
    """
    whole = [name for name in CELL_COLUMNS if name in columns_of("int")]
    for row in records.drop_duplicates(CELL_ID)[list(CELL_COLUMNS)].to_dict("records"):
        values = {str(name): value for name, value in row.items()}
        for name in whole:
            if not float(values[name]).is_integer():
                message = "this column must hold whole numbers"
                raise InputError(Problem(message, file=file, key=name, given=values[name]))
            values[name] = int(values[name])
        try:
            yield CellColumns(**values)
        except ValueError as error:
            key, _, message = str(error).partition(": ")
            raise InputError(Problem(message, file=file, key=key, given=values[key])) from error
