"""The run directory: where things lie in it. Light."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vr_eval.errors import InputError
from vr_eval.records.cell import CellRecord, MetricsRecord

RUN_LEASE = "run"
"""The lease of a whole run, which its driver holds."""


@dataclass(frozen=True)
class CellFolder:
    """The folder of one cell in a run directory."""

    path: Path

    @property
    def about(self) -> Path:
        """What the cell is, where its checkpoint came from and what it was evaluated with (`CellRecord`)."""
        return self.path / "cell.json"

    @property
    def aside(self) -> Path:
        """The same of a cell that the grid no longer has, so that reports leave it out."""
        return self.path / "cell.aside.json"

    @property
    def metrics(self) -> Path:
        """Scores per task (`MetricsRecord`); written last, so that a folder with it has samples too."""
        return self.path / "metrics.json"

    @property
    def samples(self) -> Path:
        """One row per question."""
        return self.path / "samples.parquet"

    @property
    def journal(self) -> Path:
        """Answers as they come in."""
        return self.path / "answers.jsonl"

    def shard(self, name: str) -> CellFolder:
        """Of the part of its questions that is called `name`, ``2-of-4``: a journal, and what it was answered with."""
        return CellFolder(self.path / "shards" / name)

    def shards(self) -> list[CellFolder]:
        """Those of all shards that were begun, whatever their count, by name."""
        return [CellFolder(path) for path in sorted(self.path.glob("shards/*-of-*"))]

    def journals(self) -> list[Path]:
        """Every file with answers of it."""
        folders = [*self.shards(), self]
        return [folder.journal for folder in folders if folder.journal.is_file()]

    @property
    def tasks(self) -> Path:
        """What its tasks held when it was asked (`catalog.task_content`)."""
        return self.path / "tasks.json"

    @property
    def error(self) -> Path:
        """The traceback of a cell that failed."""
        return self.path / "error.txt"

    def output(self, task: str) -> Path:
        """lmms-eval's own results of one task."""
        return self.path / "lmms" / f"{task}.json"

    @property
    def evaluated(self) -> bool:
        """Whether there are scores, possibly with failed questions."""
        return self.metrics.is_file() and self.samples.is_file()

    @property
    def complete(self) -> bool:
        """Whether every question has an answer and the records can be read, so that nothing is left to do."""
        if not self.evaluated:
            return False
        try:
            CellRecord.read(self.about if self.about.is_file() else self.aside)
            return MetricsRecord.read(self.metrics).failures == 0
        except InputError:
            return False


@dataclass(frozen=True)
class RunFolder:
    """A run directory."""

    path: Path

    @property
    def work(self) -> Path:
        """What driver and workers tell each other; no report needs it."""
        return self.path / ".work"

    @property
    def settings(self) -> Path:
        """How its cells are worked on (`runs.settings`)."""
        return self.work / "settings.json"

    @property
    def leases(self) -> Path:
        """Who is at work here (`runs.lease`)."""
        return self.work / "leases"

    @property
    def logs(self) -> Path:
        """What workers on this machine print."""
        return self.work / "logs"

    @property
    def grid(self) -> Path:
        """The resolved grid."""
        return self.path / "grid.yaml"

    @property
    def environment(self) -> Path:
        """The machine of the last run that evaluated something (`Environment`)."""
        return self.path / "environment.json"

    @property
    def records(self) -> Path:
        """One row per cell and question (`records.columns`)."""
        return self.path / "records.parquet"

    @property
    def probe(self) -> Path:
        """Of a probe run, in place of a grid and its cells: what was probed (`probes.about`)."""
        return self.path / "probe.json"

    @property
    def definition(self) -> Path:
        """A report definition for this run alone, if the user put one here."""
        return self.path / "report.yaml"

    @property
    def page(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def images(self) -> Path:
        """Images of the samples that the report shows, by task."""
        return self.path / "images"

    def table(self, suffix: str) -> Path:
        """The report's table as `csv`, `md` or `tex`."""
        return self.path / f"table.{suffix}"

    def cell(self, cell_id: str) -> CellFolder:
        """The folder of the cell `cell_id`."""
        return CellFolder(self.path / "cells" / cell_id)

    def cells(self) -> Iterator[CellFolder]:
        """Every cell's folder, by name."""
        return (CellFolder(path) for path in sorted(self.path.glob("cells/*")))
