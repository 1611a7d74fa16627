"""What a report is made from: the files of one run directory, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from vr_eval.config.document import Problems, parse
from vr_eval.errors import InputError, Problem

TEXT_COLUMNS = (
    *("cell_id", "checkpoint_id", "label", "backbone", "projector", "refusion", "pruning", "options"),
    *("suite", "task", "metric", "cluster", "kind", "question", "answer", "target", "failure", "run_id"),
)
NUMBER_COLUMNS = ("ratio", "seed", "tokens", "doc_id", "score", "latency_ms", "new_tokens")
CELL_COLUMNS = (
    *("cell_id", "checkpoint_id", "label", "backbone", "projector", "ratio", "refusion", "pruning", "image", "options"),
    *("seed", "tokens", "is_baseline"),
)
WEIGHTS = "weights"
"""The column that says `random` of cells whose weights were drawn."""
RANDOM = "random"
LATER = {WEIGHTS: "real", "image": "none"}
"""Columns that older records do not have, with what they would say there."""
NO_REASON = "no score was recorded"


@dataclass(frozen=True)
class Source:
    """A run directory as read.

    Attributes:
        path: The run directory.
        name: Name of the grid.
        question: First paragraph of the grid file's leading comment; empty if it has none.
        about: The comment's other paragraphs, one text each.
        notes: What the grid says about the run that its results do not: a limit, cells without results.
        environment: `environment.json`.
        cells: Cell id to its `cell.json`; cells that have records but no such file are filled in from the records.
        records: One row per cell and question, columns as in the README. Text columns hold no missing values; `score`
        is
            NaN exactly where `failure` is not empty.
    """

    path: Path
    name: str
    question: str
    about: tuple[str, ...]
    notes: tuple[str, ...]
    environment: Mapping[str, Any]
    cells: Mapping[str, Mapping[str, Any]]
    records: pd.DataFrame

    @property
    def random_weights(self) -> bool:
        """Whether its cells ran on weights that were drawn."""
        return bool((self.records[WEIGHTS] == RANDOM).any())


def read_run(run_dir: Path) -> Source:
    """Read the run directory ``run_dir``.

    Raises:
        InputError: It is missing, is no run directory, or one of its files is broken.
    """
    if not run_dir.is_dir():
        raise InputError(Problem("there is no such run directory", file=str(run_dir)))
    table = run_dir / "records.parquet"
    if not table.is_file():
        hint = "Let `vr-eval run` finish first; the same command continues where it stopped."
        raise InputError(Problem("this is no run directory, or a run without results", file=str(table), hint=hint))
    try:
        records = check_records(pd.read_parquet(table), str(table))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _broken(table, error) from error
    if records[WEIGHTS].nunique() > 1:
        hint = "Take the folder of one of the two runs: `vr-eval run` never puts both into one."
        message = "cells on random and on real weights never stand in one report"
        raise InputError(Problem(message, file=str(table), hint=hint))
    text = _read_text(run_dir / "grid.yaml") if (run_dir / "grid.yaml").is_file() else ""
    grid = _grid(text, run_dir)
    cells = _read_cells(run_dir, records)
    paragraphs = leading_comment(text)
    environment = run_dir / "environment.json"
    return Source(
        path=run_dir,
        name=grid["name"] if isinstance(grid.get("name"), str) else run_dir.resolve().name,
        question=paragraphs[0] if paragraphs else "",
        about=paragraphs[1:],
        notes=tuple(_grid_notes(grid, len(cells))),
        environment=_read_json(environment) if environment.is_file() else {},
        cells=cells,
        records=records,
    )


def check_records(records: pd.DataFrame, file: str = "records") -> pd.DataFrame:
    """A copy with every missing text empty, failed samples without a score, and each question of a cell only once.

    Raises:
        InputError: A column is missing or of another type, or a score lies outside of 0..1.
    """
    missing = [name for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS, "is_baseline") if name not in records.columns]
    if missing:
        raise InputError(Problem(f"columns are missing: {', '.join(missing)}", file=file))
    checked = records.copy()
    for name, before in LATER.items():
        checked[name] = checked[name].fillna(before).astype(str) if name in checked else before
    for name in TEXT_COLUMNS:
        # A missing value in a text column is None, NaN or pd.NA, depending on who wrote the file.
        checked[name] = checked[name].astype(object).where(checked[name].notna(), "").astype(str).astype(object)
    for name in NUMBER_COLUMNS:
        try:
            checked[name] = pd.to_numeric(checked[name])
        except (ValueError, TypeError) as error:
            raise InputError(Problem("this column must hold numbers", file=file, key=name)) from error
    checked["is_baseline"] = checked["is_baseline"].fillna(False).astype(bool)
    checked = checked.dropna(subset=["doc_id"]).drop_duplicates(["cell_id", "task", "doc_id"], keep="last")
    checked["score"] = checked["score"].astype(float).where(checked["failure"] == "")
    checked.loc[checked["score"].isna() & (checked["failure"] == ""), "failure"] = NO_REASON
    outside = checked[(checked["score"] < 0) | (checked["score"] > 1)]
    if len(outside):
        task = str(outside["task"].iloc[0])
        problem = Problem(
            f"scores of the task {task} are outside of their range",
            file=file,
            key="score",
            given=float(outside["score"].iloc[0]),
            allowed="0 to 1",
        )
        raise InputError(problem)
    return checked.reset_index(drop=True)


def leading_comment(text: str) -> tuple[str, ...]:
    """The paragraphs of the comment at the top of a grid file, without `#`; lines of one paragraph are joined."""
    paragraphs: list[list[str]] = [[]]
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.lstrip("#").strip()
        if words:
            paragraphs[-1].append(words)
        elif paragraphs[-1]:
            paragraphs.append([])
    return tuple(" ".join(lines) for lines in paragraphs if lines)


def _grid(text: str, run_dir: Path) -> dict[str, Any]:
    """The resolved grid. A report needs little of it, so a broken one costs no more than its notes."""
    root = parse(text, str(run_dir / "grid.yaml"), Problems())
    plain = root.plain if root is not None else None
    return plain if isinstance(plain, dict) else {}


def _grid_notes(grid: Mapping[str, Any], cells: int) -> list[str]:
    notes = []
    if isinstance(grid.get("limit"), int):
        notes.append(f"Only the first {grid['limit']:,} questions of each task were asked (limit of the grid).")
    rows, seeds = grid.get("cells"), grid.get("seeds")
    planned = len(rows) * len(seeds) if isinstance(rows, list) and isinstance(seeds, list) and "grid" not in grid else 0
    if planned > cells:
        notes.append(f"The grid has {planned} cells; {planned - cells} of them have not started yet.")
    return notes


def _read_cells(run_dir: Path, records: pd.DataFrame) -> dict[str, Mapping[str, Any]]:
    """Cells in the order of the records, then those without records, by their folder's name."""
    cells: dict[str, dict[str, Any]] = {}
    for row in records.drop_duplicates("cell_id")[list(CELL_COLUMNS)].to_dict("records"):
        cells[str(row["cell_id"])] = {str(key): value for key, value in row.items()}
    for file in sorted(run_dir.glob("cells/*/cell.json")):
        content = _read_json(file)
        name = str(content.get("cell_id", file.parent.name))
        # What the records say about a cell is what its scores were made with.
        cells[name] = {**content, **cells.get(name, {}), "cell_id": name}
    return dict(cells)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _broken(path, error) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except ValueError as error:
        raise _broken(path, error) from error
    if not isinstance(content, dict):
        raise InputError(Problem("this file must hold a JSON object", file=str(path)))
    return content


def _broken(path: Path, error: Exception) -> InputError:
    hint = "`vr-eval run` with the same grid writes it again from what the cells have stored."
    return InputError(Problem(f"the file is broken ({type(error).__name__})", file=str(path), hint=hint))
