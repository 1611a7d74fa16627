"""The numbers of a probe run: accuracy at every tap, what each component loses, and methods compared at the same tap.

All in points. `bottleneck` is the projector minus what it read (`tower.out`); `forgetting` is the decoder's last layer
minus the projector; both names are the paper's, their measure here is ours. What refusion or pruning does is the tap
behind it minus the tap in front of it, over all of its points.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vr_eval.probes.about import ProbedCell
from vr_eval.probes.intervals import Bootstrap
from vr_eval.probes.records import ProbeRun
from vr_eval.probes.tapnames import OUT, PROJECTOR, PRUNING, REFUSION, place
from vr_eval.stats import Estimate, holm

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Question:
    """One data set and target with one probe and pool: what is asked, and how."""

    data: str
    target: str
    probe: str
    pool: str
    classes: int
    images: int

    @property
    def title(self) -> str:
        """For headings: ``glyphs, class``."""
        return f"{self.data}, {self.target}"

    @property
    def chance(self) -> float:
        """Points that guessing gives."""
        return 100 / self.classes


def cells_of(run: ProbeRun) -> tuple[ProbedCell, ...]:
    """The probed cells, the baseline first."""
    return tuple(sorted(run.about.cells, key=lambda cell: not cell.is_baseline))


def questions_of(run: ProbeRun) -> tuple[Question, ...]:
    """Everything that was asked, in the file's order; the probe that is shown first comes first."""
    file = run.about.file
    return tuple(
        Question(data.name, target, probe, pool, classes, data.test)
        for data in run.about.data
        for target, classes in data.targets.items()
        for pool in file.pools
        for probe in sorted(file.probes)  # logistic before ridge
    )


class Answers:
    """One question, all cells and taps."""

    def __init__(self, run: ProbeRun, question: Question) -> None:
        self.question, self.cells = question, cells_of(run)
        self.tower_depth = run.about.tower_depth
        file = run.about.file
        self.bootstrap = Bootstrap(question.images, file.resamples, file.seed)
        frame = run.probes
        asked = np.ones(len(frame), dtype=bool)
        for name in ("data", "target", "probe", "pool"):
            asked &= (frame[name] == getattr(question, name)).to_numpy()
        self._rows: dict[tuple[str, str], dict[Hashable, Any]] = {
            (row["cell"], row["tap"]): row for row in frame[asked].to_dict("records")
        }
        self._known: dict[tuple[object, ...], Estimate] = {}

    @cached_property
    def taps(self) -> tuple[str, ...]:
        """Every tap of any cell, in the order of a forward pass."""
        return tuple(sorted({tap for _, tap in self._rows}, key=lambda tap: place(tap, self.tower_depth)))

    def has(self, cell: ProbedCell, tap: str) -> bool:
        return (cell.id, tap) in self._rows

    def row(self, cell: ProbedCell, tap: str) -> dict[Hashable, Any]:
        """What was recorded of one probe."""
        return self._rows[cell.id, tap]

    def accuracy(self, cell: ProbedCell, tap: str) -> Estimate:
        """Accuracy in points."""
        return self._estimate("correct", cell, tap)

    def control(self, cell: ProbedCell, tap: str) -> Estimate:
        """Accuracy of a probe that was fitted to shuffled labels, in points."""
        return self._estimate("control", cell, tap)

    def selectivity(self, cell: ProbedCell, tap: str) -> Estimate:
        """Accuracy above that of the shuffled labels, in points."""
        row = self.row(cell, tap)
        return self._difference((cell.id, tap, "selectivity"), row["correct"], row["control"])

    def change(self, cell: ProbedCell, after: str, before: str) -> Estimate:
        """Accuracy at one tap minus that at another, paired by image, in points; unknown if a tap is missing."""
        if not (self.has(cell, after) and self.has(cell, before)):
            return Estimate(note="not read")
        return self._difference((cell.id, after, before), *(self.row(cell, tap)["correct"] for tap in (after, before)))

    def compared(self, cell: ProbedCell, other: ProbedCell, tap: str) -> Estimate:
        """`cell` minus `other` at the same tap."""
        if not (self.has(cell, tap) and self.has(other, tap)):
            return Estimate(note="not read")
        return self._difference((cell.id, other.id, tap, 0), *(self.row(one, tap)["correct"] for one in (cell, other)))

    def bottleneck(self, cell: ProbedCell) -> Estimate:
        """What is lost at the projector."""
        return self.change(cell, PROJECTOR, OUT)

    def forgetting(self, cell: ProbedCell) -> Estimate:
        """What is lost from the projector to the decoder's last tap, whatever acts in between."""
        return self.change(cell, cell.taps[-1], PROJECTOR)

    def points(self, cell: ProbedCell, suffix: str) -> Estimate:
        """What the refusion or pruning points of a cell change together."""
        total = np.zeros(self.question.images)
        found = [tap for tap in cell.taps if tap.endswith(suffix) and self.has(cell, tap)]
        for tap in found:
            before = cell.before(tap)
            if before is None or not self.has(cell, before):
                return Estimate(note="not read")
            after_, before_ = (np.asarray(self.row(cell, one)["correct"], dtype=float) for one in (tap, before))
            total += after_ - before_
        return self._difference((cell.id, suffix, "sum"), total, np.zeros_like(total)) if found else Estimate()

    def refusion(self, cell: ProbedCell) -> Estimate:
        return self.points(cell, REFUSION)

    def pruning(self, cell: ProbedCell) -> Estimate:
        return self.points(cell, PRUNING)

    def with_refusion(self) -> list[tuple[ProbedCell, ProbedCell]]:
        """Pairs of cells that differ in refusion alone."""
        by_id = {cell.id: cell for cell in self.cells}
        pairs = [(cell, by_id.get(cell.without_refusion or "")) for cell in self.cells]
        return [(cell, other) for cell, other in pairs if other is not None]

    def _estimate(self, kind: str, cell: ProbedCell, tap: str) -> Estimate:
        key = (kind, cell.id, tap)
        if key not in self._known:
            self._known[key] = self.bootstrap.mean(self.row(cell, tap)[kind]).scaled(100)
        return self._known[key]

    def _difference(self, key: tuple[object, ...], after: Any, before: Any) -> Estimate:
        if key not in self._known:
            self._known[key] = self.bootstrap.difference(after, before).scaled(100)
        return self._known[key]


def marks(estimates: list[Estimate]) -> list[str]:
    """`**` for a difference that Holm's correction over the list leaves, `*` for an interval that excludes zero."""
    adjusted = holm([estimate.p for estimate in estimates])
    return ["**" if p < 0.05 else "*" if e.excludes_zero else "" for e, p in zip(estimates, adjusted, strict=True)]


def long_table(run: ProbeRun, answers: list[Answers]) -> pd.DataFrame:
    """Every probe as one row, for programs."""
    rows = []
    for one in answers:
        for cell in one.cells:
            for tap in (tap for tap in one.taps if one.has(cell, tap)):
                accuracy, control = one.accuracy(cell, tap), one.control(cell, tap)
                rows.append(
                    {
                        "data": one.question.data,
                        "target": one.question.target,
                        "probe": one.question.probe,
                        "pool": one.question.pool,
                        "cell": cell.label,
                        "tap": tap,
                        "place": place(tap, one.tower_depth),
                        "accuracy": accuracy.value,
                        "low": accuracy.low,
                        "high": accuracy.high,
                        "control": control.value,
                        "selectivity": accuracy.value - control.value,
                        "chance": one.question.chance,
                        "strength": one.row(cell, tap)["strength"],
                        "images": one.question.images,
                    }
                )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Dense:
    """The per-token probes."""

    run: ProbeRun

    @cached_property
    def rows(self) -> dict[tuple[str, str], tuple[Scores, Scores]]:
        """ProbedCell and tap to glyphs read right and glyphs there, per scene."""
        return {
            (row["cell"], row["tap"]): (np.asarray(row["correct"], float), np.asarray(row["total"], float))
            for row in self.run.dense.to_dict("records")
        }

    def accuracy(self, cell: str, tap: str) -> Estimate:
        """Share of glyphs that are read, in points, with a bootstrap interval over scenes (ratio of sums)."""
        correct, total = self.rows[cell, tap]
        return self._ratio(correct, total)

    def change(self, cell: str, after: str, before: str) -> Estimate:
        """Points at one tap minus those at another of the same cell, paired by scene."""
        if not {(cell, after), (cell, before)} <= self.rows.keys():
            return Estimate(note="not read")
        (a, total), (b, _) = self.rows[cell, after], self.rows[cell, before]
        return self._ratio(a - b, total)

    def _ratio(self, parts: Scores, whole: Scores) -> Estimate:
        # A ratio of sums: scenes hold different numbers of glyphs, so what varies is what a scene has beyond its share.
        file = self.run.about.file
        ratio = parts.sum() / whole.sum()
        values = ratio + (parts - ratio * whole) / whole.mean()
        exact = Bootstrap(len(values), file.resamples, file.seed)
        return exact.difference(values, np.zeros_like(values)).scaled(100)
