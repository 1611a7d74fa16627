"""Average score against vision tokens, fewer tokens to the right, every configuration labelled directly.

A colour is a projector. A hollow point is the projector alone, a filled one has refusion on top; a line joins the two, and
configurations that differ in their compression ratio alone. The dashed line is the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vr_eval.report.columns import row_name
from vr_eval.report.configurations import NONE, Configuration
from vr_eval.report.definition import Definition
from vr_eval.report.notation import plural, points
from vr_eval.report.scores import Scores
from vr_eval.report.svg import (
    INK,
    MARKERS,
    MUTED,
    NARROW_PX,
    PAPER,
    RULE,
    WIDE_PX,
    Drawing,
    hue,
    pixel_axes,
    pixel_figure,
    pixel_text,
    to_svg,
)
from vr_eval.stats import Estimate

SHOWN = 18
LINE_PX = 19
LABELS_PX = 280


@dataclass(frozen=True)
class _Point:
    row: Configuration
    average: Estimate
    x: float
    colour: str
    marker: str

    @property
    def face(self) -> str:
        return PAPER if self.row.refusion == NONE and not self.row.is_baseline else self.colour


def draw_scores(scores: Scores, definition: Definition) -> Drawing | None:
    """The figure, or None with fewer than two configurations that have an average and a token count."""
    placed, left_out = _points(scores)
    if len(placed) < 2:
        return None
    names = {point.row.index: row_name(point.row, definition) for point in placed}
    caption = (
        "Average score against vision tokens per image, with 95 % intervals. Hollow: the projector alone; filled: with "
        "refusion; the line joins the same projector without and with it, or at several ratios."
    )
    if left_out:
        caption += f" {plural(left_out, 'row')} of the table left out."
    title = "Average score against vision tokens: " + ", ".join(
        f"{names[p.row.index]} {points(p.average.value)}" for p in placed
    )
    return Drawing("scores", caption, _wide(placed, names, scores, title), _narrow(placed, names, scores, title))


def projector_colours(scores: Scores) -> dict[str, str]:
    """Projector to its colour, the same in all figures; the baseline has none of its own."""
    projectors = dict.fromkeys(row.projector for row in scores.configurations if not row.is_baseline)
    return {projector: hue(index) for index, projector in enumerate(projectors)}


def _points(scores: Scores) -> tuple[list[_Point], int]:
    """Points with x in 0..1 over the token counts (logarithmic), rows of the same count standing side by side."""
    rows = [(row, scores.average(row)) for row in scores.configurations]
    known = [(row, average) for row, average in rows if average.known and row.tokens]
    shown = known[:SHOWN]
    colours = projector_colours(scores)
    refusions = list(
        dict.fromkeys((row.refusion, str(row.options.get(row.refusion))) for row, _ in shown if row.refusion != NONE)
    )
    slots = _slots([row.tokens for row, _ in shown if row.tokens])
    placed = []
    for row, average in shown:
        beside = [other.index for other, _ in shown if other.tokens == row.tokens]
        nearest = min((abs(slots[row.tokens] - x) for t, x in slots.items() if t != row.tokens), default=1.0)
        step = min(0.075, 0.75 * nearest / len(beside))
        x = slots[row.tokens] + (beside.index(row.index) - (len(beside) - 1) / 2) * step
        key = (row.refusion, str(row.options.get(row.refusion)))
        marker = MARKERS[refusions.index(key) % len(MARKERS)] if key in refusions else MARKERS[0]
        colour = INK if row.is_baseline else colours[row.projector]
        placed.append(_Point(row, average, x, colour, marker))
    return placed, len(rows) - len(shown)


def _slots(tokens: Sequence[int]) -> dict[int, float]:
    counts = sorted(set(tokens), reverse=True)
    if len(counts) == 1:
        return {counts[0]: 0.5}
    span = math.log(counts[0] / counts[-1])
    return {count: math.log(counts[0] / count) / span for count in counts}


def _wide(placed: list[_Point], names: dict[int, str], scores: Scores, title: str) -> Markup:
    height = max(330, LINE_PX * len(placed) + 90)
    figure = pixel_figure(WIDE_PX, height)
    plot_width, plot_height = WIDE_PX - LABELS_PX - 60, height - 84
    axes = pixel_axes(figure, 40, 34, plot_width, plot_height)
    pixel_text(figure, 4, 12, "Average score", color=MUTED)
    _plot(axes, placed, scores)
    low, high = axes.get_ylim()
    wanted = [34 + (high - point.average.value) / (high - low) * plot_height for point in placed]
    for point, y, at in zip(placed, wanted, _spread_out(wanted, 34, 34 + plot_height), strict=True):
        edge = 40 + plot_width
        axes.annotate(
            "",
            xy=(edge + 4, height - y),
            xytext=(edge + 24, height - at),
            xycoords="figure points",
            textcoords="figure points",
            arrowprops={"arrowstyle": "-", "color": RULE, "lw": 1, "shrinkA": 0, "shrinkB": 0},
        )
        _label(figure, edge + 34, at, point, names[point.row.index])
    return to_svg(figure, "scores-wide", title)


def _narrow(placed: list[_Point], names: dict[int, str], scores: Scores, title: str) -> Markup:
    plot_height = 240
    listed = sorted(placed, key=lambda point: -point.average.value)
    figure = pixel_figure(NARROW_PX, plot_height + 96 + LINE_PX * len(listed))
    axes = pixel_axes(figure, 34, 34, NARROW_PX - 44, plot_height)
    pixel_text(figure, 2, 12, "Average score", color=MUTED)
    _plot(axes, placed, scores)
    for line, point in enumerate(listed):
        _label(figure, 14, plot_height + 96 + LINE_PX * line, point, names[point.row.index])
    return to_svg(figure, "scores-narrow", title)


def _plot(axes: Axes, placed: list[_Point], scores: Scores) -> None:
    ends = [end for p in placed for end in (p.average.low, p.average.high, p.average.value) if not math.isnan(end)]
    pad = max(1.0, 0.06 * (max(ends) - min(ends)))
    axes.set_ylim(min(ends) - pad, max(ends) + pad)
    axes.set_xlim(-0.14, 1.28 if len({p.row.tokens for p in placed}) > 1 else 1.14)
    axes.yaxis.grid(True, color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    ticks = {p.row.tokens: (p.row.tokens or 0) for p in placed}
    slots = _slots([tokens for tokens in ticks if tokens])
    ratios = {p.row.tokens: p.row.ratio for p in placed}
    axes.set_xticks(list(slots.values()), [f"{t}" if ratios[t] == 1 else f"{t} (1/{ratios[t]})" for t in slots])
    axes.set_xlabel("Vision tokens per image", color=MUTED)
    by_row = {point.row.index: point for point in placed}
    for point in placed:
        if point.row.is_baseline:
            axes.axhline(point.average.value, color=MUTED, linewidth=1, dashes=(4, 4))
        other = scores.partner(point.row)
        if other is not None and other.index in by_row:
            _join(axes, by_row[other.index], point)
    for one, other in _neighbours(placed):
        _join(axes, one, other)
    for point in placed:
        if point.average.bounded:
            axes.vlines(point.x, point.average.low, point.average.high, color=point.colour, linewidth=1.5)
        style = {"marker": point.marker, "color": point.colour, "markerfacecolor": point.face}
        axes.plot([point.x], [point.average.value], markersize=8, markeredgewidth=1.8, linestyle="", **style)


def _neighbours(placed: list[_Point]) -> list[tuple[_Point, _Point]]:
    """Points that differ in their ratio alone, each with the next."""
    series: dict[tuple[object, ...], list[_Point]] = {}
    for point in placed:
        backbone, projector, _, *rest = point.row.alone()
        own = str(point.row.options.get(point.row.refusion))
        series.setdefault((backbone, projector, *rest, point.row.refusion, own), []).append(point)
    ordered = [sorted(line, key=lambda point: point.row.ratio) for line in series.values()]
    return [pair for line in ordered for pair in zip(line, line[1:], strict=False)]


def _join(axes: Axes, one: _Point, other: _Point) -> None:
    axes.plot([one.x, other.x], [one.average.value, other.average.value], color=other.colour, linewidth=1.2, alpha=0.55)


def _label(figure: Figure, x: float, y: float, point: _Point, name: str) -> None:
    glyph = {"o": "●○", "s": "■□", "D": "◆◇", "^": "▲△", "v": "▼▽", "P": "✚✚"}[point.marker]
    hollow = point.face == PAPER
    pixel_text(figure, x, y, glyph[1 if hollow else 0], color=point.colour, ha="center")
    shown = name if len(name) <= 34 else name[:33] + "…"
    pixel_text(figure, x + 12, y, f"{shown}  {points(point.average.value)}")


def _spread_out(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Places near ``wanted`` and at least a line apart, in the same order, kept above ``bottom`` if there is room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = list(wanted)
    previous = top - LINE_PX
    for i in order:
        places[i] = previous = max(places[i], previous + LINE_PX)
    following = bottom + LINE_PX
    for i in reversed(order):
        places[i] = following = min(places[i], following - LINE_PX)
    return places
