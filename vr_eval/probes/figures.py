"""Figures of a probe run: accuracy along the depth, taps x methods as a heat map, attention density by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vr_eval.probes.about import ProbedCell
from vr_eval.probes.records import ProbeRun
from vr_eval.probes.summary import Answers, Dense, cells_of
from vr_eval.probes.tapnames import OUT, PROJECTOR, component, place
from vr_eval.reporting.notation import points, signed
from vr_eval.reporting.svg import (
    INK,
    MUTED,
    NARROW_PX,
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

PANEL_PX, HEAD_PX, FOOT_PX = 190, 30, 30
LINE_PX = 19
LONGEST = 46
_NAMES_BELOW = 0.8
"""Share of a panel's height that lines take; above stand the names of components and losses."""


@dataclass(frozen=True)
class Line:
    """One cell along the depth: taps, what was measured there, and the two losses of the paper."""

    cell: ProbedCell
    taps: tuple[str, ...]
    values: tuple[Estimate, ...]
    note: str
    bottleneck: Estimate
    forgetting: Estimate


@dataclass(frozen=True)
class _Panel:
    title: str
    lines: tuple[Line, ...]


def depth_figure(name: str, caption: str, lines: Sequence[Line], tower_depth: int, chance: float) -> Drawing:
    """Accuracy at every tap of every cell, one panel per projector and one for training-free methods,
    with the baseline in each.

    Every line's note names the losses with their size.
    """
    baseline = next((line for line in lines if line.cell.is_baseline), None)
    panels = _panels(lines, baseline)
    spoken = "; ".join(f"{line.cell.label}: {line.note}" for line in lines)
    title = f"Accuracy along the depth. {spoken}"

    def draw(columns: int, width: float) -> Markup:
        return _panelled(name, title, panels, baseline, columns, width, tower_depth, chance, lines)

    return Drawing(name, caption, draw(2, WIDE_PX), draw(1, NARROW_PX))


def losses(one: Answers, cell: ProbedCell) -> str:
    """``bottleneck −20.3, forgetting +1.0, refusion +12.2``: what a line's label says."""
    named: list[tuple[str, Callable[[ProbedCell], Estimate]]] = [
        ("bottleneck", one.bottleneck),
        ("forgetting", one.forgetting),
        ("refusion", one.refusion),
        ("pruning", one.pruning),
    ]
    found = [(name, measure(cell)) for name, measure in named]
    return ", ".join(f"{name} {signed(estimate.value)}" for name, estimate in found if estimate.known)


def lines_of(one: Answers) -> list[Line]:
    """The lines of one question; `tower.out` is left out where it repeats the hidden state that it is."""
    made = []
    for cell in one.cells:
        taps = tuple(tap for tap in cell.taps if one.has(cell, tap) and tap != OUT)
        if taps:
            values = tuple(one.accuracy(cell, tap) for tap in taps)
            made.append(Line(cell, taps, values, losses(one, cell), one.bottleneck(cell), one.forgetting(cell)))
    return made


def dense_lines(run: ProbeRun) -> list[Line]:
    """The same for the per-token probes."""
    dense, made = Dense(run), []
    for cell in cells_of(run):
        taps = tuple(tap for tap in cell.taps if (cell.id, tap) in dense.rows and tap != OUT)
        if taps:
            lost = dense.change(cell.id, PROJECTOR, OUT), dense.change(cell.id, cell.taps[-1], PROJECTOR)
            named = zip(("bottleneck", "forgetting"), lost, strict=True)
            note = ", ".join(f"{name} {signed(estimate.value)}" for name, estimate in named if estimate.known)
            made.append(Line(cell, taps, tuple(dense.accuracy(cell.id, tap) for tap in taps), note, *lost))
    return made


def heat_map(name: str, caption: str, one: Answers) -> Drawing:
    """Accuracy in points, methods down and taps across; grey where a method has no such tap."""
    cells = [cell for cell in one.cells if any(one.has(cell, tap) for tap in one.taps)]
    table = pd.DataFrame(
        [[one.accuracy(c, t).value if one.has(c, t) else np.nan for t in one.taps] for c in cells],
        index=[_short(cell.label, LONGEST) for cell in cells],
        columns=list(one.taps),
    )
    spoken = "; ".join(
        f"{label}: {', '.join(f'{t} {points(v)}' for t, v in row.dropna().items())}" for label, row in table.iterrows()
    )

    def draw(shown: pd.DataFrame, suffix: str, labels: float) -> Markup:
        across = 34 * len(shown.columns)
        figure = pixel_figure(labels + across + 12, 24 * len(shown) + 132)
        axes = pixel_axes(figure, labels, 8, across, 24 * len(shown))
        seaborn.heatmap(
            shown, ax=axes, annot=True, fmt=".0f", cmap="viridis", vmin=0, vmax=100, cbar=False, annot_kws={"size": 10}
        )
        axes.tick_params(axis="x", rotation=60)
        axes.tick_params(axis="y", rotation=0, labelsize=11)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")
        axes.set_xlabel("")
        axes.set_ylabel("")
        return to_svg(figure, f"{name}-{suffix}", f"Accuracy in points by method and tap. {spoken}")

    narrow = table.copy()
    narrow.index = [_short(str(label), 24) for label in table.index]
    return Drawing(
        name, caption, draw(table, "wide", 7.2 * max(map(len, table.index)) + 14), draw(narrow, "narrow", 185)
    )


def density_figure(run: ProbeRun, caption: str) -> Drawing | None:
    """Share of attention that text gives to vision tokens, by decoder layer; dashed what even attention would give."""
    cells = {cell.id: cell for cell in cells_of(run)}
    frame = run.density
    if frame.empty:
        return None
    rows = [
        {"layer": int(row["layer"]), "share": 100 * float(np.mean(row["share"])), "cell": row["cell"]}
        for row in frame.to_dict("records")
    ]
    table = pd.DataFrame(rows)
    order = [cell for cell in cells if cell in set(table["cell"])]
    colours = {cell: INK if cells[cell].is_baseline else hue(place_) for place_, cell in enumerate(order)}
    spoken = "; ".join(
        f"{cells[cell].label}: "
        + ", ".join(points(v) for v in table[table["cell"] == cell].sort_values("layer")["share"])
        for cell in order
    )

    def draw(width: float, suffix: str) -> Markup:
        beside = width > NARROW_PX
        legend = LINE_PX * len(order)
        plot = max(260.0, legend) if beside else 240.0
        figure = pixel_figure(width, plot + 70 + (0 if beside else legend))
        across = width - 50 - (330 if beside else 12)
        axes = pixel_axes(figure, 40, 26, across, plot)
        pixel_text(figure, 4, 10, "Attention to vision tokens, %", color=MUTED)
        seaborn.lineplot(
            data=table, x="layer", y="share", hue="cell", palette=colours, ax=axes, legend=False, marker="o", mec="none"
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.grid(True, color=RULE, linewidth=1)
        axes.set_axisbelow(True)
        axes.set_ylim(0, None)
        axes.set_xlabel("Decoder layer", color=MUTED)
        axes.set_ylabel("")
        last = table[table["layer"] == table["layer"].max()].set_index("cell")["share"]
        left, top = (60 + across, 34.0) if beside else (8.0, plot + 78)
        for line, cell in enumerate(sorted(order, key=lambda cell: -float(last.get(cell, 0.0)))):
            text = f"{_short(cells[cell].label, 42)}  {points(float(last.get(cell, np.nan)))}"
            pixel_text(figure, left, top + LINE_PX * line, text, color=colours[cell], fontsize=11)
        return to_svg(figure, f"density-{suffix}", f"Attention of text to vision tokens in percent by layer. {spoken}")

    return Drawing("density", caption, draw(WIDE_PX, "wide"), draw(NARROW_PX, "narrow"))


def _panels(lines: Sequence[Line], baseline: Line | None) -> list[_Panel]:
    """By projector and ratio; what differs from the baseline in a training-free method has a panel of its own."""
    families: dict[str, list[Line]] = {}
    for line in lines:
        free = (line.cell.pruning, line.cell.image) != ("none", "none")
        family = "training-free" if free else line.cell.label.partition(" + ")[0].partition(" [")[0]
        if line is not baseline:
            families.setdefault(family, []).append(line)
    if not families and baseline is not None:
        families = {baseline.cell.label: []}
    return [_Panel(family, tuple(members)) for family, members in families.items()]


def _panelled(
    name: str,
    title: str,
    panels: list[_Panel],
    baseline: Line | None,
    columns: int,
    width: float,
    tower_depth: int,
    chance: float,
    lines: Sequence[Line],
) -> Markup:
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    noted = [max(len(panel.lines) for panel in row) + (baseline is not None) for row in rows]
    tops = [0.0, *accumulate(HEAD_PX + PANEL_PX + FOOT_PX + 2 * LINE_PX * count + 16.0 for count in noted)]
    figure = pixel_figure(width, tops[-1])
    across = width / columns
    for number, panel in enumerate(panels):
        top, left = tops[number // columns], across * (number % columns)
        pixel_text(figure, left + 4, top + 12, panel.title, weight="bold")
        axes = pixel_axes(figure, left + 34, top + HEAD_PX, across - 50, PANEL_PX)
        shown = [*([baseline] if baseline is not None else []), *panel.lines]
        colours = {line.cell.id: INK if line is baseline else hue(i) for i, line in enumerate(panel.lines)}
        colours |= {baseline.cell.id: INK} if baseline is not None else {}
        _plot(axes, shown, colours, tower_depth, chance, lines)
        below = top + HEAD_PX + PANEL_PX + FOOT_PX + 8
        for line_number, line in enumerate(shown):
            y = below + 2 * LINE_PX * line_number
            colour = colours[line.cell.id]
            pixel_text(figure, left + 8, y, _short(line.cell.label, LONGEST), color=colour, fontsize=11, weight="bold")
            pixel_text(figure, left + 8, y + LINE_PX - 4, line.note, color=colour, fontsize=11)
    return to_svg(figure, f"{name}-{'wide' if columns > 1 else 'narrow'}", title)


def _plot(
    axes: Axes, shown: list[Line], colours: dict[str, str], tower_depth: int, chance: float, lines: Sequence[Line]
) -> None:
    every = sorted({place(tap, tower_depth): tap for line in lines for tap in line.taps}.items())
    high = max(value.high if value.bounded else value.value for line in lines for value in line.values)
    rows = [
        {"x": place(tap, tower_depth), "accuracy": value.value, "cell": line.cell.id}
        for line in shown
        for tap, value in zip(line.taps, line.values, strict=True)
    ]
    seaborn.lineplot(
        data=pd.DataFrame(rows),
        x="x",
        y="accuracy",
        hue="cell",
        palette=colours,
        ax=axes,
        legend=False,
        estimator=None,
        marker="o",
        mec="none",
        markersize=5,
        linewidth=1.6,
    )
    for line in shown:
        at = [place(tap, tower_depth) for tap in line.taps]
        low, top = ([getattr(v, end) if v.bounded else v.value for v in line.values] for end in ("low", "high"))
        axes.fill_between(at, low, top, color=colours[line.cell.id], alpha=0.12, linewidth=0)
    axes.set_ylim(0, high / _NAMES_BELOW)
    axes.set_xlim(-0.5, every[-1][0] + 0.5)
    axes.axhline(chance, color=MUTED, linewidth=1, dashes=(2, 3))
    ticks = MaxNLocator(5, integer=True).tick_values(0, high)
    axes.set_yticks([tick for tick in ticks if tick <= min(100, 1.05 * high)])  # none among the names
    axes.yaxis.grid(True, color=RULE, linewidth=1)
    axes.set_axisbelow(True)
    axes.set_xlabel("")
    axes.set_ylabel("")
    named = [(x, tap) for x, tap in every if "+" not in tap]
    axes.set_xticks(
        [x for x, _ in named], ["P" if t == PROJECTOR else t.partition(".")[2] for _, t in named], fontsize=10
    )
    _mark_components(axes, every)
    plain = next((line for line in shown if not line.cell.is_baseline and line.cell.refusion == "none"), None)
    if plain is not None:
        _name_losses(axes, plain, colours[plain.cell.id], tower_depth)


def _name_losses(axes: Axes, line: Line, colour: str, tower_depth: int) -> None:
    """The losses of the panel's first model without refusion, named where they occur, above all lines."""
    height, at = 0.92 * axes.get_ylim()[1], place(PROJECTOR, tower_depth)
    style: dict[str, Any] = {"color": colour, "fontsize": 10, "va": "top"}
    if line.bottleneck.known:
        axes.text(at - 0.15, height, f"bottleneck {signed(line.bottleneck.value)}", ha="right", **style)
    if line.forgetting.known:
        axes.text(at + 0.7, height, f"forgetting {signed(line.forgetting.value)}", ha="left", **style)


def _mark_components(axes: Axes, every: list[tuple[float, str]]) -> None:
    """Tower, projector and decoder named at the top, with a rule between them."""
    top = axes.get_ylim()[1]
    spans: dict[str, list[float]] = {}
    for x, tap in every:
        spans.setdefault(component(tap), []).append(x)
    for number, (part, xs) in enumerate(spans.items()):
        if number:
            axes.axvline(xs[0] - 0.5, color=RULE, linewidth=1)
        short = {"projector": "proj."}.get(part, part)
        axes.text(sum((xs[0], xs[-1])) / 2, top, short, color=MUTED, fontsize=10, ha="center", va="top")


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
