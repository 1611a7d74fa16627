"""Average score against vision tokens, fewer tokens to the right, every line or point labelled directly.

A colour is a projector. Hollow is the projector alone, filled has refusion on top. A line joins what differs in the
ratio alone; where every method has one ratio only, it joins a projector without and with refusion. Dashed is the
baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vr_eval.methods.registry import NONE
from vr_eval.reporting import svg
from vr_eval.reporting.columns import row_name
from vr_eval.reporting.configurations import Configuration
from vr_eval.reporting.definition import Definition
from vr_eval.reporting.notation import plural, points
from vr_eval.reporting.scores import Scores
from vr_eval.reporting.svg import INK, MUTED, NARROW_PX, PAPER, RULE, WIDE_PX, Drawing
from vr_eval.stats import Estimate

SHOWN = 18
LINE_PX = 19
LABELS_PX = 280
LONGEST_NAME = 44


@dataclass(frozen=True)
class _Point:
    row: Configuration
    average: Estimate
    tokens: int
    x: float


@dataclass(frozen=True)
class _Series:
    """Configurations that differ in their ratio alone, most tokens first."""

    name: str
    marker: str
    colour: str
    points: tuple[_Point, ...]

    @property
    def last(self) -> _Point:
        return self.points[-1]

    @property
    def style(self) -> dict[str, Any]:
        hollow = self.last.row.refusion == NONE and not self.last.row.is_baseline
        face = PAPER if hollow else self.colour
        return {"marker": self.marker, "color": self.colour, "markerfacecolor": face, "markersize": 8, "mew": 1.8}

    @property
    def label(self) -> str:
        name = self.name if len(self.name) <= LONGEST_NAME else self.name[: LONGEST_NAME - 1] + "…"
        return f"{name}  {points(self.last.average.value)}" if len(self.points) == 1 else name


def draw_scores(scores: Scores, definition: Definition) -> Drawing | None:
    """The figure, or None with fewer than two configurations that have an average and a token count."""
    found = _series(scores, definition)
    shown = found[:SHOWN]
    if sum(len(series.points) for series in shown) < 2:
        return None
    caption = (
        "Average score against vision tokens per image (logarithmic), with 95 % intervals. Hollow: the projector "
        "alone; filled: with refusion."
    )
    if len(found) > SHOWN:
        caption += f" {plural(len(found) - SHOWN, 'line')} more would not be readable."
    listed = (f"{s.name} {', '.join(f'{points(p.average.value)} at {p.tokens}' for p in s.points)}" for s in shown)
    title = f"Average score against vision tokens: {'; '.join(listed)}"
    return Drawing("scores", caption, _wide(shown, scores, title), _narrow(shown, scores, title))


def projector_colours(scores: Scores) -> dict[str, str]:
    """Projector to its colour, the same in all figures; the baseline has none of its own."""
    projectors = dict.fromkeys(row.projector for row in scores.configurations if not row.is_baseline)
    return {projector: svg.hue(index) for index, projector in enumerate(projectors)}


def _series(scores: Scores, definition: Definition) -> list[_Series]:
    rows = [(row, row.tokens, scores.average(row)) for row in scores.configurations]
    known = [(row, tokens, average) for row, tokens, average in rows if average.known and tokens > 0]
    places = _places([(row.index, tokens) for row, tokens, _ in known])
    lines: dict[tuple[object, ...], list[_Point]] = {}
    for row, tokens, average in known:
        key = (row.uncompressed().alone(), row.refusion, str(row.options.get(row.refusion)), row.is_baseline)
        lines.setdefault(key, []).append(_Point(row, average, tokens, places[row.index]))
    refusions = list(dict.fromkeys(key[1:3] for key in lines if key[1] != NONE))
    colours = projector_colours(scores)
    return [
        _Series(
            name=row_name(line[0].row.uncompressed(), definition),
            marker=svg.MARKERS[refusions.index(key[1:3]) % len(svg.MARKERS)] if key[1] != NONE else svg.MARKERS[0],
            colour=INK if line[0].row.is_baseline else colours[line[0].row.projector],
            points=tuple(sorted(line, key=lambda point: -point.tokens)),
        )
        for key, line in lines.items()
    ]


def _places(tokens: Sequence[tuple[int, int]]) -> dict[int, float]:
    """Row index to x: token counts on a logarithmic scale, rows of the same count side by side."""
    slots = _slots(count for _, count in tokens)
    places = {}
    for row, count in tokens:
        beside = [other for other, same in tokens if same == count]
        nearest = min((abs(slots[count] - x) for other, x in slots.items() if other != count), default=1.0)
        step = min(0.075, 0.75 * nearest / len(beside))
        places[row] = slots[count] + (beside.index(row) - (len(beside) - 1) / 2) * step
    return places


def _slots(tokens: Iterable[int]) -> dict[int, float]:
    """Token count to 0..1, most tokens at 0."""
    counts = sorted(set(tokens), reverse=True)
    if len(counts) < 2:
        return dict.fromkeys(counts, 0.5)
    span = math.log(counts[0] / counts[-1])
    return {count: math.log(counts[0] / count) / span for count in counts}


def _wide(shown: list[_Series], scores: Scores, title: str) -> Markup:
    height = max(330, LINE_PX * len(shown) + 90)
    figure = svg.pixel_figure(WIDE_PX, height)
    plot_width, plot_height = WIDE_PX - LABELS_PX - 60, height - 84
    axes = svg.pixel_axes(figure, 40, 34, plot_width, plot_height)
    _plot(figure, axes, shown, scores)
    low, high = axes.get_ylim()
    wanted = [34 + (high - series.last.average.value) / (high - low) * plot_height for series in shown]
    for series, y in zip(shown, _spread_out(wanted, 34, 34 + plot_height), strict=True):
        _label(figure, 40 + plot_width + 16, y, series)
    return svg.to_svg(figure, "scores-wide", title)


def _narrow(shown: list[_Series], scores: Scores, title: str) -> Markup:
    plot_height = 240
    figure = svg.pixel_figure(NARROW_PX, plot_height + 96 + LINE_PX * len(shown))
    axes = svg.pixel_axes(figure, 34, 34, NARROW_PX - 44, plot_height)
    _plot(figure, axes, shown, scores)
    for line, series in enumerate(sorted(shown, key=lambda series: -series.last.average.value)):
        _label(figure, 14, plot_height + 96 + LINE_PX * line, series)
    return svg.to_svg(figure, "scores-narrow", title)


def _plot(figure: Figure, axes: Axes, shown: list[_Series], scores: Scores) -> None:
    svg.pixel_text(figure, 4, 12, "Average score", color=MUTED)
    placed = [point for series in shown for point in series.points]
    ends = [end for p in placed for end in (p.average.low, p.average.high, p.average.value) if not math.isnan(end)]
    pad = max(1.0, 0.06 * (max(ends) - min(ends)))
    slots = _slots(point.tokens for point in placed)
    # The ratio is the projector's alone; a row with a training-free method may have fewer tokens than that.
    ratios = {point.tokens: point.row.ratio for point in placed if point.row.training_free == ()}
    axes.set_ylim(min(ends) - pad, max(ends) + pad)
    axes.set_xlim(min(-0.14, *(p.x - 0.06 for p in placed)), max(1.14, *(p.x + 0.06 for p in placed)))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.grid(True, color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.set_xticks(list(slots.values()), [f"{t}" if ratios.get(t, 1) == 1 else f"{t} (1/{ratios[t]})" for t in slots])
    axes.set_xlabel("Vision tokens per image", color=MUTED)
    single = all(len(series.points) == 1 for series in shown)
    by_row = {point.row.index: point for point in placed}
    for series in shown:
        if series.last.row.is_baseline:
            axes.axhline(series.last.average.value, color=MUTED, linewidth=1, dashes=(4, 4))
        joined = list(pairwise(series.points))
        alone = scores.partner(series.last.row)
        if single and alone is not None and alone.index in by_row:
            joined.append((by_row[alone.index], series.last))
        for one, other in joined:
            values = (one.average.value, other.average.value)
            axes.plot((one.x, other.x), values, color=series.colour, linewidth=1.2, alpha=0.55)
    for series in shown:
        for point in series.points:
            if point.average.bounded:
                axes.vlines(point.x, point.average.low, point.average.high, color=series.colour, linewidth=1.5)
            axes.add_line(Line2D([point.x], [point.average.value], linestyle="", **series.style))


def _label(figure: Figure, x: float, y: float, series: _Series) -> None:
    width, height = (svg.PX_PER_INCH * size for size in figure.get_size_inches())
    figure.add_artist(Line2D([x / width], [1 - y / height], transform=figure.transFigure, **series.style))
    svg.pixel_text(figure, x + 12, y, series.label)


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
