"""Where a worker begins changes the order of its batches, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.adapters.world import toy_grid, use, write_checkpoints, write_tasks
from vr_eval.adapters.answering import Answerer, Prepared
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.decoding import Rules
from vr_eval.environment import describe
from vr_eval.records.folder import RunFolder
from vr_eval.runs.evaluate import Session


def test_workers_begin_at_different_places_and_answer_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tasks(tmp_path)
    use(tmp_path, monkeypatch)
    grid = toy_grid(tmp_path)
    write_checkpoints(grid.cells)
    asked: list[list[tuple[int, ...]]] = []
    generate = Answerer._generate_at_once

    def watched(self: Answerer, prepared: Sequence[Prepared], rules: Rules) -> object:
        asked[-1].append(tuple(len(entry.ids) for entry in prepared))
        return generate(self, prepared, rules)

    monkeypatch.setattr(Answerer, "_generate_at_once", watched)
    found = []
    for shared in (False, True):
        asked.append([])
        session = Session(grid, grid.cells, "cpu", 4, describe("a run"), shared=shared)
        cell = grid.cells[1]  # the first one begins at the beginning
        folder = RunFolder(tmp_path / f"run{shared}").cell("cell")
        found.append(session.run(cell, find_checkpoint(cell), folder, lambda answered: None).tasks)
    assert found[0] == found[1]
    assert asked[0] != asked[1]
    assert sorted(asked[0]) == sorted(asked[1])
