"""The columns of the main table: how each is called, what it means and how its entries come from the scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from vr_eval.reporting.configurations import Configuration
from vr_eval.reporting.definition import Definition
from vr_eval.reporting.notation import NOTHING, amount, interval, margin, points, share, signed, visible
from vr_eval.reporting.scores import Scores
from vr_eval.stats import Estimate, holm

LEVEL = 0.05
DIFFERENCE = "Difference, points"
SHARED_MARK = "†"
SHARED_NOTE = (
    f"{SHARED_MARK} measured while several workers shared the machine: that is throughput, the time per question of "
    "one worker, and no latency, which a run with one worker or vr-eval bench measures alone."
)


@dataclass(frozen=True)
class Entry:
    """One field of the table.

    Attributes:
        text: What is shown; a dash if there is nothing to show.
        small: What goes with it in small type: an interval, options.
        mark: `*` for an interval that excludes zero, `**` if Holm's correction over the column leaves it so;
            `SHARED_MARK` for a time that is throughput.
        order: What the column sorts by; None for nothing to show.
        estimate: The estimate behind a score or difference, in points.
        warn: Asks for attention (coverage below 100 %).
    """

    text: str = NOTHING
    small: str = ""
    mark: str = ""
    order: float | str | None = None
    estimate: Estimate | None = None
    warn: bool = False


@dataclass(frozen=True)
class Column:
    """``key`` is stable (``suite:ocr``), ``title`` is shown, ``group`` stands over neighbours of the same group."""

    key: str
    title: str
    note: str
    group: str = ""
    numeric: bool = True


Built: TypeAlias = tuple[Column, list[Entry]]


def build_column(key: str, scores: Scores, definition: Definition) -> list[Built]:
    """The column called ``key`` in a report definition with its entries, one per configuration; `suites` is several."""
    if key == "suites":
        return [_suite(suite, scores, definition) for suite in scores.suites]
    return [_BUILDERS[key](scores, definition)]


def method_name(row: Configuration, definition: Definition) -> str:
    """``TokenPacker + Vision Remember``, without ratio and options."""
    return " + ".join(map(definition.name, row.methods))


def option_text(options: Mapping[str, Mapping[str, object]], variant: str) -> str:
    """Options that differ from the default, by method, and whatever else tells a row apart: ``scope=global``."""
    texts = [f"{key}={_plain(value)}" for values in options.values() for key, value in values.items()]
    return visible(", ".join([*texts, variant] if variant else texts), 200)


def row_name(row: Configuration, definition: Definition) -> str:
    """A name for places without columns: ``TokenPacker 1/4 + Vision Remember [scope=global]``."""
    projector = definition.name(row.projector) + ("" if row.ratio == 1 else f" 1/{row.ratio}")
    name = " + ".join([projector, *map(definition.name, row.methods[1:])])
    options = option_text(row.options, row.variant)
    return visible(f"{name} [{options}]" if options else name, 200)


def _method(scores: Scores, definition: Definition) -> Built:
    column = Column("method", "Method", "Projector, with the methods added to it.", numeric=False)
    names = [visible(method_name(row, definition), 200) for row in scores.configurations]
    rows = zip(names, scores.configurations, strict=True)
    return column, [Entry(name, small=option_text(row.options, row.variant), order=row.index) for name, row in rows]


def _backbone(scores: Scores, definition: Definition) -> Built:
    column = Column("backbone", "Backbone", "Vision tower and decoder.", numeric=False)
    return column, [Entry(visible(row.backbone, 60), order=row.backbone) for row in scores.configurations]


def _ratio(scores: Scores, definition: Definition) -> Built:
    column = Column("ratio", "Ratio", "Compression ratio: the part of the tokens that the projector keeps.")
    return column, [Entry(f"1/{r.ratio}" if r.ratio > 1 else "1", order=1 / r.ratio) for r in scores.configurations]


def _tokens(scores: Scores, definition: Definition) -> Built:
    column = Column("tokens", "Tokens", "Vision tokens per image that the decoder sees.")
    return column, [_number(row.tokens, lambda value: f"{value:,.0f}") for row in scores.configurations]


def _parameters(scores: Scores, definition: Definition) -> Built:
    column = Column("parameters", "Parameters", "Parameters in all; in small type those of the methods.")
    entries = []
    for row in scores.configurations:
        counts = row.cell.parameters
        entry = _number(counts.total, amount) if counts is not None else Entry()
        entries.append(replace(entry, small=f"{amount(counts.method)} method" if counts is not None else ""))
    return column, entries


def _gflops(scores: Scores, definition: Definition) -> Built:
    note = (
        "Billions of floating-point operations of one prefill, two per multiply-add: one image and a prompt of a fixed "
        "length, vision tower included; in small type the tower's part."
    )
    column = Column("gflops", "GFLOPs", note)
    entries = []
    for row in scores.configurations:
        prefill = row.cell.prefill
        entry = _number(prefill.gflops, _giga) if prefill is not None else Entry()
        entries.append(replace(entry, small=f"{_giga(prefill.tower_gflops)} tower" if prefill is not None else ""))
    return column, entries


def _suite(suite: str, scores: Scores, definition: Definition) -> Built:
    tasks = [task.name for task in scores.tasks if task.suite == suite]
    note = f"Mean over the questions of {', '.join(tasks)}, 0 to 100."
    column = Column(f"suite:{suite}", visible(definition.suite(suite), 40), visible(note), "Score")
    return column, [score_entry(scores.suite(row, suite)) for row in scores.configurations]


def _average(scores: Scores, definition: Definition) -> Built:
    column = Column("average", "Average", "Mean of the suites.", "Score")
    return column, [score_entry(scores.average(row)) for row in scores.configurations]


def _to_baseline(scores: Scores, definition: Definition) -> Built:
    column = Column(
        "baseline", "to baseline", "Average minus the baseline's, on the questions that both answered.", DIFFERENCE
    )
    others = [None if row.is_baseline else scores.baseline(row) for row in scores.configurations]
    return column, _differences(scores, others)


def _to_pair(scores: Scores, definition: Definition) -> Built:
    note = "Average minus that of the same projector without refusion, on the questions that both answered."
    column = Column("pair", "to no refusion", note, DIFFERENCE)
    return column, _differences(scores, [scores.partner(row) for row in scores.configurations])


def _kept(scores: Scores, definition: Definition) -> Built:
    column = Column("kept", "Kept", "Average in percent of the baseline's.")
    entries = []
    for row in scores.configurations:
        baseline = scores.baseline(row)
        whole = math.nan if baseline is None else scores.average(baseline).value
        kept = 100 * scores.average(row).value / whole if whole > 0 else math.nan
        entries.append(_number(kept, lambda value: f"{points(value)} %"))
    return column, entries


def _questions(scores: Scores, definition: Definition) -> Built:
    column = Column("questions", "n", "Questions answered (by at least one seed).")
    return column, [_number(scores.questions(row), lambda value: f"{value:,.0f}") for row in scores.configurations]


def _coverage(scores: Scores, definition: Definition) -> Built:
    column = Column("coverage", "Coverage", "Answered of all questions asked; failed ones are left out of the means.")
    entries = []
    for row in scores.configurations:
        answered, asked = scores.answered(row), scores.asked * len(row.cells)
        entries.append(Entry(share(answered, asked), order=answered / max(asked, 1), warn=answered < asked))
    return column, entries


def _latency(scores: Scores, definition: Definition) -> Built:
    note = "Mean wall time per question in this run on this machine, batched; see below for the machine."
    entries = []
    for row in scores.configurations:
        entry = _number(scores.latency(row), points)
        shared = entry.order is not None and scores.is_shared(row)
        entries.append(replace(entry, mark=SHARED_MARK) if shared else entry)
    if any(entry.mark for entry in entries):
        note = f"{note} {SHARED_NOTE}"
    return Column("latency", "ms / question", note), entries


def _spread(scores: Scores, definition: Definition) -> Built:
    column = Column("spread", "Seed spread", "Standard deviation of the average over seeds, points.", "Score")
    return column, [_number(scores.spread(row), lambda value: f"{value:.2f}") for row in scores.configurations]


_BUILDERS: Mapping[str, Callable[[Scores, Definition], Built]] = {
    "method": _method,
    "backbone": _backbone,
    "ratio": _ratio,
    "tokens": _tokens,
    "parameters": _parameters,
    "gflops": _gflops,
    "average": _average,
    "baseline": _to_baseline,
    "pair": _to_pair,
    "kept": _kept,
    "questions": _questions,
    "coverage": _coverage,
    "latency": _latency,
    "spread": _spread,
}


def score_entry(estimate: Estimate) -> Entry:
    if not estimate.known:
        return Entry()
    return Entry(points(estimate.value), margin(estimate), order=estimate.value, estimate=estimate)


def _differences(scores: Scores, others: Sequence[Configuration | None]) -> list[Entry]:
    """Each row against its entry of ``others``; Holm's correction runs over the column."""
    pairs = zip(scores.configurations, others, strict=True)
    estimates = [Estimate() if other is None else scores.difference(row, other) for row, other in pairs]
    entries = []
    for estimate, adjusted in zip(estimates, holm([e.p for e in estimates]), strict=True):
        mark = "**" if adjusted < LEVEL else "*" if estimate.excludes_zero else ""
        text = signed(estimate.value)
        entries.append(Entry(text, interval(estimate), mark, estimate.value, estimate) if estimate.known else Entry())
    return entries


def _number(value: float | None, write: Callable[[float], str]) -> Entry:
    return Entry() if value is None or math.isnan(value) else Entry(write(value), order=float(value))


def _giga(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
