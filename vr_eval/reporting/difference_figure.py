"""What refusion changes in each suite: with minus without, each pair with its 95 % interval, one panel per suite."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vr_eval.reporting.answer import variant_name, variants_of_refusion
from vr_eval.reporting.columns import row_name
from vr_eval.reporting.definition import Definition
from vr_eval.reporting.notation import listing, plural, signed
from vr_eval.reporting.score_figure import projector_colours
from vr_eval.reporting.scores import Pair, Scores
from vr_eval.reporting.svg import (
    INK,
    MUTED,
    NARROW_PX,
    PAPER,
    RULE,
    WIDE_PX,
    Drawing,
    pixel_axes,
    pixel_figure,
    pixel_text,
    to_svg,
)
from vr_eval.stats import Estimate

SHOWN = 24
ROW_PX = 34


@dataclass(frozen=True)
class _Panel:
    title: str
    estimates: tuple[Estimate, ...]


def draw_differences(scores: Scores, definition: Definition) -> Drawing | None:
    """The figure, or None if no configuration ran both with and without refusion."""
    pairs = list(scores.pairs)[:SHOWN]
    if not pairs:
        return None
    keys = [*scores.suites, None] if len(scores.suites) > 1 else list(scores.suites)
    panels = [
        _Panel(
            "Average" if suite is None else definition.suite(suite),
            tuple(scores.difference(row, other, suite) for row, other in pairs),
        )
        for suite in keys
    ]
    if not any(estimate.known for panel in panels for estimate in panel.estimates):
        return None
    variants = list(variants_of_refusion(scores, definition))
    names = _names(pairs, len(variants) > 1, definition)
    caption = (
        f"{listing(variants)}: difference to the same projector without it, in points, paired by question, with "
        "95 % intervals. Filled: the interval excludes zero (not corrected for the number of comparisons)."
    )
    if len(scores.pairs) > SHOWN:
        caption += f" The first {SHOWN} of {plural(len(scores.pairs), 'pair')}."
    title = "Difference that refusion makes. " + "; ".join(
        f"{panel.title}: "
        + ", ".join(f"{name} {signed(e.value)}" for name, e in zip(names, panel.estimates, strict=True))
        for panel in panels
    )
    by_projector = projector_colours(scores)
    colours = [by_projector.get(row.projector, INK) for row, _ in pairs]
    return Drawing("differences", caption, _wide(panels, names, colours, title), _narrow(panels, names, colours, title))


def _names(pairs: list[Pair], several: bool, definition: Definition) -> list[str]:
    names = [row_name(other, definition) for _, other in pairs]
    if several:
        names = [f"{name} + {variant_name(row, definition)}" for name, (row, _) in zip(names, pairs, strict=True)]
    return [name if len(name) <= 50 else name[:49] + "…" for name in names]


def _wide(panels: list[_Panel], names: list[str], colours: list[str], title: str) -> Markup:
    labels = 36 + 6.2 * max(len(name) for name in names)
    plot_height = ROW_PX * len(names)
    figure = pixel_figure(WIDE_PX, plot_height + 62)
    width = (WIDE_PX - labels - 10) / len(panels)
    for row, name in enumerate(names):
        pixel_text(figure, 4, 34 + ROW_PX * (row + 0.5), name)
    for place, panel in enumerate(panels):
        left = labels + place * width
        pixel_text(figure, left, 14, panel.title, weight="bold")
        axes = pixel_axes(figure, left, 34, width - 18, plot_height)
        _plot(axes, panel, panels, colours)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True, symmetric=False))
        axes.xaxis.set_major_formatter(lambda value, _: signed(value).removesuffix(".0"))
    return to_svg(figure, "differences-wide", title)


def _narrow(panels: list[_Panel], names: list[str], colours: list[str], title: str) -> Markup:
    block = ROW_PX * len(names) + 62
    figure = pixel_figure(NARROW_PX, block * len(panels))
    left = min(36 + 6.2 * max(len(name) for name in names), 180)
    for place, panel in enumerate(panels):
        top = place * block
        pixel_text(figure, 4, top + 14, panel.title, weight="bold")
        for row, name in enumerate(names):
            shown = name if len(name) <= 24 else name[:23] + "…"
            pixel_text(figure, 4, top + 30 + ROW_PX * (row + 0.5), shown)
        axes = pixel_axes(figure, left, top + 30, NARROW_PX - left - 12, ROW_PX * len(names))
        _plot(axes, panel, panels, colours)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(lambda value, _: signed(value).removesuffix(".0"))
    return to_svg(figure, "differences-narrow", title)


def _plot(axes: Axes, panel: _Panel, panels: list[_Panel], colours: list[str]) -> None:
    ends = [end for p in panels for e in p.estimates if e.known for end in (e.low, e.high, e.value) if end == end]
    low, high = min(0.0, *ends), max(0.0, *ends)
    pad = 0.05 * max(high - low, 1)
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(len(panel.estimates) - 0.5, -0.5)
    axes.set_yticks([])
    axes.xaxis.grid(True, color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.axvline(0, color=MUTED, linewidth=1.2)
    for row, (estimate, colour) in enumerate(zip(panel.estimates, colours, strict=True)):
        if not estimate.known:
            axes.text(0, row, " no data", color=MUTED, va="center", fontsize=11)
            continue
        if estimate.bounded:
            axes.hlines(row, estimate.low, estimate.high, color=colour, linewidth=1.8)
        face = colour if estimate.excludes_zero else PAPER
        axes.plot([estimate.value], [row], "o", color=colour, markerfacecolor=face, markersize=8, markeredgewidth=1.8)
        axes.annotate(
            signed(estimate.value),
            (estimate.value, row),
            (0, 8),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=INK,
            fontsize=11,
        )
