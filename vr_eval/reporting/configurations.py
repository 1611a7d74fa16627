"""The rows of a report: cells without their seeds, in a reader's order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from vr_eval.config.cell import SEAMS
from vr_eval.config.identity import flat
from vr_eval.methods.registry import NONE
from vr_eval.records.cell import CellRecord
from vr_eval.records.columns import CELL_ID, FAILURE
from vr_eval.reporting.source import Source


@dataclass(frozen=True)
class Configuration:
    """A cell without its seed: one row of the table.

    Attributes:
        index: Its place in the report, from 0.
        cell: Its first cell.
        variant: Tells rows apart that differ in something else than methods and options (a recipe); mostly empty.
        cells: Seed to cell id.
        failures: Seed to why its cell gave no answers at all.
    """

    index: int
    cell: CellRecord
    variant: str
    cells: Mapping[int, str]
    failures: Mapping[int, str]

    @property
    def label(self) -> str:
        """The cell's own label, as in the records."""
        return self.cell.label

    @property
    def backbone(self) -> str:
        return self.cell.backbone

    @property
    def projector(self) -> str:
        return self.cell.projector

    @property
    def ratio(self) -> int:
        return self.cell.ratio

    @property
    def refusion(self) -> str:
        return self.cell.refusion

    @property
    def methods(self) -> tuple[str, ...]:
        """Its projector and what was added to it."""
        return self.cell.methods

    @property
    def training_free(self) -> tuple[str, ...]:
        """Its methods that change no checkpoint."""
        return tuple(name for name in self.methods if name not in (self.projector, self.refusion))

    @property
    def options(self) -> Mapping[str, Mapping[str, object]]:
        """Method name to its options that differ from the default."""
        return self.cell.method_options

    @property
    def tokens(self) -> int:
        """Vision tokens per image."""
        return self.cell.tokens

    @property
    def is_baseline(self) -> bool:
        return self.cell.is_baseline

    @property
    def failure(self) -> str:
        """Why cells of it gave no answers; empty if every cell gave some."""
        if len(self.cells) == 1:
            return "".join(self.failures.values())
        return "; ".join(f"seed {seed}: {reason}" for seed, reason in self.failures.items())

    def uncompressed(self) -> Configuration:
        """The same at ratio 1: what configurations have in common that differ in their ratio alone."""
        return replace(self, cell=replace(self.cell, ratio=1))

    def alone(self) -> tuple[object, ...]:
        """What it has in common with the configuration that lacks its refusion."""
        options = {name: values for name, values in self.options.items() if name != self.refusion}
        others = (getattr(self.cell, seam) for seam in SEAMS if seam != "refusion")
        return self.backbone, self.ratio, *others, _canonical(options), self.variant


def read_configurations(source: Source) -> tuple[Configuration, ...]:
    """The baseline first, then by projector in order of appearance, ratio, training-free methods, refusion."""
    answered = set(source.records.loc[source.records[FAILURE] == "", CELL_ID])
    variants = _variants(source.cells)
    rows: dict[tuple[object, ...], Configuration] = {}
    for cell_id, cell in source.cells.items():
        one = Configuration(0, cell, variants[cell_id], {}, {})
        key = (*one.alone(), one.refusion, _canonical(one.options))
        while key in rows and cell.seed in rows[key].cells:
            # Two cells of one configuration and seed differ in something that is not recorded; better two rows than
            # one.
            one = replace(one, variant=f"cell {cell_id[:6]}")
            key = (*key, cell_id)
        row = rows.get(key, one)
        rows[key] = replace(
            row,
            cells={**row.cells, cell.seed: cell_id},
            failures=row.failures if cell_id in answered else {**row.failures, cell.seed: _failure(source, cell_id)},
        )
    return tuple(replace(row, index=index) for index, row in enumerate(_ordered(rows.values())))


def _variants(cells: Mapping[str, CellRecord]) -> dict[str, str]:
    """Cell id to what its recipe has that not all recipes of the run have: ``steps=600``."""
    known = {cell_id: flat(cell.recipe) for cell_id, cell in cells.items() if cell.recipe is not None}
    differing = sorted({key for a in known.values() for key in a if any(b.get(key) != a[key] for b in known.values())})
    return {
        cell_id: ", ".join(f"{key}={known[cell_id].get(key)}" for key in differing) if cell_id in known else ""
        for cell_id in cells
    }


def _failure(source: Source, cell_id: str) -> str:
    stated = source.cells[cell_id].failure
    if stated is not None:
        return stated
    reasons = source.records.loc[source.records[CELL_ID] == cell_id, FAILURE]
    return str(reasons.mode().iloc[0]) if len(reasons) else "no question was asked yet"


def _ordered(rows: Iterable[Configuration]) -> list[Configuration]:
    listed = list(rows)
    projectors = list(dict.fromkeys(row.projector for row in listed))
    backbones = list(dict.fromkeys(row.backbone for row in listed))
    return sorted(
        listed,
        key=lambda row: (
            backbones.index(row.backbone),
            not row.is_baseline,
            projectors.index(row.projector),
            row.ratio,
            row.training_free != (),
            row.training_free,
            row.refusion != NONE,
        ),
    )


def _canonical(options: object) -> str:
    return json.dumps(options, sort_keys=True, default=str)
