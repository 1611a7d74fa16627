"""The rows of a report: cells without their seeds, in a reader's order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vr_eval.report.source import Source

NONE = "none"


@dataclass(frozen=True)
class Configuration:
    """A cell without its seed: one row of the table.

    Attributes:
        index: Its place in the report, from 0.
        label: The cell's own label, as in the records.
        options: Method name to its options that differ from the default.
        variant: Tells rows apart that differ in something else than methods and options (a recipe); mostly empty.
        tokens: Vision tokens per image; None if not recorded.
        cells: Seed to cell id.
        parameters: `total` and `method`, where recorded.
        prefill: `gflops` and `tower_gflops` of one prefill, and the question they are counted on, where recorded.
        failures: Seed to why its cell gave no answers at all.
    """

    index: int
    label: str
    backbone: str
    projector: str
    ratio: int
    refusion: str
    pruning: str
    image: str
    options: Mapping[str, Mapping[str, Any]]
    variant: str
    tokens: int | None
    is_baseline: bool
    cells: Mapping[int, str]
    parameters: Mapping[str, float]
    prefill: Mapping[str, float]
    failures: Mapping[int, str]

    @property
    def failure(self) -> str:
        """Why cells of it gave no answers; empty if every cell gave some."""
        if len(self.cells) == 1:
            return "".join(self.failures.values())
        return "; ".join(f"seed {seed}: {reason}" for seed, reason in self.failures.items())

    @property
    def training_free(self) -> tuple[str, ...]:
        """Its methods that change no checkpoint."""
        return tuple(name for name in (self.pruning, self.image) if name != NONE)

    @property
    def methods(self) -> tuple[str, ...]:
        """Its projector and what was added to it."""
        return self.projector, *(() if self.refusion == NONE else (self.refusion,)), *self.training_free

    def alone(self) -> tuple[object, ...]:
        """What it has in common with the configuration that lacks its refusion."""
        options = {name: values for name, values in self.options.items() if name != self.refusion}
        return self.backbone, self.projector, self.ratio, self.pruning, self.image, _canonical(options), self.variant


def read_configurations(source: Source) -> tuple[Configuration, ...]:
    """The baseline first, then by projector in order of appearance, ratio, training-free methods, refusion."""
    answered = set(source.records.loc[source.records["failure"] == "", "cell_id"])
    variants = _variants(source.cells)
    rows: dict[tuple[object, ...], Configuration] = {}
    for cell_id, cell in source.cells.items():
        one = _configuration(cell, variants[cell_id])
        seed = _whole(cell.get("seed")) or 0
        key = (*one.alone(), one.refusion, _canonical(one.options))
        while key in rows and seed in rows[key].cells:
            # Two cells of one configuration and seed differ in something that is not recorded; better two rows than
            # one.
            one = replace(one, variant=f"cell {cell_id[:6]}")
            key = (*key, cell_id)
        row = rows.get(key, one)
        rows[key] = replace(
            row,
            cells={**row.cells, seed: cell_id},
            failures=row.failures if cell_id in answered else {**row.failures, seed: _failure(source, cell_id)},
        )
    return tuple(replace(row, index=index) for index, row in enumerate(_ordered(rows.values())))


def _configuration(cell: Mapping[str, Any], variant: str) -> Configuration:
    return Configuration(
        index=0,
        label=str(cell.get("label") or cell["cell_id"]),
        backbone=str(cell.get("backbone", "")),
        projector=str(cell.get("projector") or cell.get("label") or cell["cell_id"]),
        ratio=_whole(cell.get("ratio")) or 1,
        refusion=str(cell.get("refusion") or NONE),
        pruning=str(cell.get("pruning") or NONE),
        image=str(cell.get("image") or NONE),
        options=_options(cell.get("options")),
        variant=variant,
        tokens=_whole(cell.get("tokens")),
        is_baseline=bool(cell.get("is_baseline", False)),
        cells={},
        parameters=_numbers(cell.get("parameters")),
        prefill=_numbers(cell.get("prefill")),
        failures={},
    )


def _variants(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Cell id to what its recipe has that not all recipes of the run have: ``steps=600``."""
    recipes = {cell_id: cell.get("recipe") for cell_id, cell in cells.items()}
    known = {cell_id: recipe for cell_id, recipe in recipes.items() if isinstance(recipe, dict)}
    differing = sorted({key for a in known.values() for key in a if any(b.get(key) != a[key] for b in known.values())})
    return {
        cell_id: ", ".join(f"{key}={known[cell_id].get(key)}" for key in differing) if cell_id in known else ""
        for cell_id in cells
    }


def _numbers(recorded: object) -> dict[str, float]:
    """The numbers of a mapping; empty for what an older run did not record."""
    if not isinstance(recorded, Mapping):
        return {}
    return {str(name): value for name, value in recorded.items() if isinstance(value, int | float)}


def _failure(source: Source, cell_id: str) -> str:
    stated = source.cells[cell_id].get("failure") or source.cells[cell_id].get("error")
    if stated:
        return str(stated)
    reasons = source.records.loc[source.records["cell_id"] == cell_id, "failure"]
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


def _options(value: object) -> Mapping[str, Mapping[str, Any]]:
    """Options as recorded: JSON in the records, an object in `cell.json`."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except ValueError:
            value = {"options": {"unreadable": value}}
    if not isinstance(value, Mapping):
        return {}
    return {str(name): values for name, values in value.items() if isinstance(values, Mapping) and values}


def _canonical(options: object) -> str:
    return json.dumps(options, sort_keys=True, default=str)


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and value == value else None
