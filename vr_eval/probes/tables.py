"""Tables of a probe run: what every component loses, and methods with and without refusion at the same tap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vr_eval.probes.about import ProbedCell
from vr_eval.probes.records import ProbeRun
from vr_eval.probes.summary import Answers, Dense, cells_of, marks
from vr_eval.probes.tapnames import OUT, PROJECTOR
from vr_eval.reporting.columns import Column, Entry
from vr_eval.reporting.notation import interval, points, signed, visible
from vr_eval.reporting.tables import Row, Table
from vr_eval.stats import Estimate

_PAIRED = "* the interval excludes zero, ** it still does after Holm's correction over the column."


def drop_table(one: Answers) -> Table:
    """One row per cell: accuracy at the tower's output and at the end, and the change in every component."""
    cells = one.cells
    columns: list[tuple[Column, list[Entry]]] = [
        (
            _column("cell", "Method", numeric=False),
            [Entry(visible(c.label, 200), order=i) for i, c in enumerate(cells)],
        ),
        (_column("tower", "Tower output"), [_accuracy(one, cell, OUT) for cell in cells]),
        (_column("bottleneck", "Bottleneck (projector)"), _changes([one.bottleneck(cell) for cell in cells])),
        (_column("forgetting", "Forgetting (decoder)"), _changes([one.forgetting(cell) for cell in cells])),
        (_column("refusion", "of it: refusion"), _changes([one.refusion(cell) for cell in cells])),
        (_column("pruning", "of it: pruning"), _changes([one.pruning(cell) for cell in cells])),
        (_column("end", "Last tap"), [_accuracy(one, cell, cell.taps[-1]) for cell in cells]),
        (_column("selectivity", "Selectivity"), [_selectivity(one, cell) for cell in cells]),
    ]
    caption = (
        f"{one.question.probe} probe on {one.question.images} test images, {one.question.pool} of the vision tokens; "
        f"points, with bootstrap intervals over images, changes paired by image. {_PAIRED} Forgetting is the last tap "
        "minus the projector, whatever acts in between. Selectivity: last tap minus the same probe on shuffled labels.",
    )
    return _table(f"Drop per component: {one.question.title}", cells, columns, caption)


def pair_table(one: Answers) -> Table | None:
    """With minus without refusion at every tap that both have; None without such a pair."""
    pairs = one.with_refusion()
    taps = [tap for tap in one.taps if any(one.has(a, tap) and one.has(b, tap) for a, b in pairs)]
    taps = [tap for tap in taps if not tap.startswith("tower")]
    if not pairs or not taps:
        return None
    cells = [cell for cell, _ in pairs]
    columns = [(_column("cell", "Method", numeric=False), [Entry(visible(c.label, 200)) for c in cells])]
    columns += [(_column(tap, tap), _changes([one.compared(a, b, tap) for a, b in pairs])) for tap in taps]
    caption = (f"Accuracy with refusion minus without it at the same tap, in points, paired by image. {_PAIRED}",)
    return _table(f"With and without refusion: {one.question.title}", cells, columns, caption)


def dense_table(run: ProbeRun) -> Table | None:
    """Glyphs read from single tokens: at the tower, behind the projector and at the end; None without `--dense`."""
    dense = Dense(run)
    cells = [cell for cell in cells_of(run) if any(name == cell.id for name, _ in dense.rows)]
    if not cells:
        return None

    def at(cell: ProbedCell, tap: str) -> Entry:
        if (cell.id, tap) not in dense.rows:
            return Entry()
        estimate = dense.accuracy(cell.id, tap)
        return Entry(
            points(estimate.value), f"{points(estimate.low)} to {points(estimate.high)}", "", estimate.value, estimate
        )

    def change(cell: ProbedCell, after: str, before: str) -> Estimate:
        return dense.change(cell.id, after, before)

    columns = [
        (_column("cell", "Method", numeric=False), [Entry(visible(c.label, 200)) for c in cells]),
        (_column("tower", "Tower output"), [at(cell, OUT) for cell in cells]),
        (_column("bottleneck", "Bottleneck (projector)"), _changes([change(c, PROJECTOR, OUT) for c in cells])),
        (_column("forgetting", "Forgetting (decoder)"), _changes([change(c, c.taps[-1], PROJECTOR) for c in cells])),
        (_column("end", "Last tap"), [at(cell, cell.taps[-1]) for cell in cells]),
    ]
    caption = (
        "Share of the glyphs on the test scenes of ocr and doc that a ridge probe reads from the token over them, in "
        f"points, with bootstrap intervals over scenes; glyphs under dropped tokens count as not read. {_PAIRED}",
    )
    return _table("Which glyph is under a token", cells, columns, caption)


def _table(
    title: str, cells: Sequence[ProbedCell], columns: Sequence[tuple[Column, list[Entry]]], caption: tuple[str, ...]
) -> Table:
    shown = [
        (c, entries) for c, entries in columns if any(entry.order is not None for entry in entries) or not c.numeric
    ]
    rows = tuple(
        Row(i, visible(cell.label, 200), tuple(entries[i] for _, entries in shown), cell.is_baseline)
        for i, cell in enumerate(cells)
    )
    return Table(visible(title, 120), tuple(column for column, _ in shown), rows, caption, ())


def _column(key: str, title: str, *, numeric: bool = True) -> Column:
    return Column(key, title, "", numeric=numeric)


def _accuracy(one: Answers, cell: ProbedCell, tap: str) -> Entry:
    return _entry(one.accuracy(cell, tap), points) if one.has(cell, tap) else Entry()


def _selectivity(one: Answers, cell: ProbedCell) -> Entry:
    tap = cell.taps[-1]
    return _entry(one.selectivity(cell, tap), signed) if one.has(cell, tap) else Entry()


def _entry(estimate: Estimate, write: Callable[[float], str]) -> Entry:
    between = f"{write(estimate.low)} to {write(estimate.high)}" if estimate.bounded else ""
    return Entry(write(estimate.value), between, "", estimate.value, estimate)


def _changes(estimates: list[Estimate]) -> list[Entry]:
    pairs = zip(estimates, marks(estimates), strict=True)
    return [Entry(signed(e.value), interval(e), mark, e.value, e) if e.known else Entry() for e, mark in pairs]
