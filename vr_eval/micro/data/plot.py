"""Bar, line and pie charts in matplotlib, aligned to the patch grid; the text on top is set by the page.

One unit of the value axis is one patch row: the value v lies at the middle of patch row 10 - v, category letters stand
in row 11 and tick digits in column 0. Only matplotlib's object interface is used, so no global state changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, Wedge
from numpy.typing import NDArray
from PIL import Image

from vr_eval.micro.data.page import RGB, Page, blend
from vr_eval.micro.data.vocabulary import GRID, PATCH, SIDE

_ZERO_ROW = 10
_HIGHEST = 9
_STYLES = ("whitegrid", "darkgrid", "ticks")  # named after the seaborn styles that they look like
_MARKERS = ("o", "s", "D", "^")
_DPI = 96


def _unit(colour: RGB) -> tuple[float, float, float]:
    return colour[0] / 255, colour[1] / 255, colour[2] / 255


def _axes(page: Page) -> tuple[Figure, Axes]:
    """A 192 x 192 pixel figure over the page; data units are patches from the left and values from the zero line."""
    figure = Figure(figsize=(SIDE / _DPI, SIDE / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.figimage(np.asarray(page.image)[::-1], origin="lower", zorder=-1)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, GRID)
    axes.set_ylim(_ZERO_ROW + 0.5 - GRID, _ZERO_ROW + 0.5)
    return figure, axes


def _render(page: Page, figure: Figure) -> None:
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    page.open(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))


def _scale(page: Page, axes: Axes, letters: Sequence[str]) -> list[int]:
    """Draw the grid and the two axis lines; return the patch column of each category."""
    rng = page.rng
    style = rng.choice(_STYLES)
    if style == "darkgrid":
        panel = blend(page.background, (128, 128, 200), 0.12)
        axes.add_patch(Rectangle((1, 0), GRID - 1, _HIGHEST + 0.45, facecolor=_unit(panel), edgecolor="none", zorder=0))
    grid_rgb = page.background if style == "darkgrid" else page.faint(0.84)
    if style != "ticks":
        levels = [[(1, value), (GRID, value)] for value in range(1, _HIGHEST + 1)]
        axes.add_collection(LineCollection(levels, colors=[_unit(grid_rgb)], linewidths=0.8, zorder=0.5))
    edge = _unit(page.faint(0.35))
    frame: list[list[tuple[float, float]]] = [[(1, 0), (GRID, 0)], [(1, 0), (1, _HIGHEST + 0.45)]]
    if style == "ticks":
        frame += [[(0.85, value), (1, value)] for value in range(_HIGHEST + 1)]
    axes.add_collection(LineCollection(frame, colors=[edge], linewidths=1.2, zorder=3))
    step = {3: 3, 4: rng.choice((2, 3)), 5: 2}[len(letters)]
    span = step * (len(letters) - 1)
    first = rng.randint(2, GRID - 1 - span)
    return [first + step * place for place in range(len(letters))]


def _letter_scale(page: Page, letters: Sequence[str], columns: Sequence[int]) -> None:
    for value in range(_HIGHEST + 1):
        page.text(_ZERO_ROW - value, 0, str(value), page.plain, move=(0, 0))
    for letter, column in zip(letters, columns, strict=True):
        page.text(GRID - 1, column, letter, page.plain, move=page.nudge(1))


def bars(page: Page, letters: Sequence[str], colours: Sequence[str], values: Sequence[int]) -> None:
    """Draw one bar per letter on ``page``; ``colours`` has one name per bar, or a single one for all."""
    figure, axes = _axes(page)
    columns = _scale(page, axes, letters)
    names = list(colours) * len(letters) if len(colours) == 1 else list(colours)
    inks = {name: _unit(page.ink(name)) for name in colours}
    widest = 1.0 if columns[-1] == GRID - 1 else 1.5  # no bar runs off the sheet
    width = page.rng.uniform(0.85, widest)
    edge = _unit(page.faint(0.2)) if page.rng.random() < 0.3 else "none"
    axes.bar(
        [column + 0.5 for column in columns],
        list(values),
        width=width,
        color=[inks[name] for name in names],
        edgecolor=edge,
        linewidth=0.8,
        zorder=2,
    )
    axes.set_xlim(0, GRID)
    axes.set_ylim(_ZERO_ROW + 0.5 - GRID, _ZERO_ROW + 0.5)
    _render(page, figure)
    for column, name, value in zip(columns, names, values, strict=True):
        for row in range(_ZERO_ROW - value, _ZERO_ROW + 1):
            page.mark(row, column, "bar_top" if row == _ZERO_ROW - value else "bar", name)
    _letter_scale(page, letters, columns)


def lines(page: Page, letters: Sequence[str], colours: Sequence[str], series: Sequence[Sequence[int]]) -> None:
    """Draw one line with markers per colour on ``page``."""
    figure, axes = _axes(page)
    columns = _scale(page, axes, letters)
    xs = [column + 0.5 for column in columns]
    size = page.rng.uniform(6.0, 8.0)
    width = page.rng.uniform(1.4, 2.2)
    shapes = page.rng.sample(_MARKERS, len(colours))
    for name, values, shape in zip(colours, series, shapes, strict=True):
        ink = _unit(page.ink(name))
        axes.plot(xs, list(values), color=ink, marker=shape, markersize=size, linewidth=width, zorder=4)
    axes.set_xlim(0, GRID)
    axes.set_ylim(_ZERO_ROW + 0.5 - GRID, _ZERO_ROW + 0.5)
    _render(page, figure)
    for name, values in zip(colours, series, strict=True):
        for row, column in _crossed(xs, values):
            page.mark(row, column, "line", name)
    for name, values in zip(colours, series, strict=True):  # markers last: they carry the values
        for column, value in zip(columns, values, strict=True):
            page.mark(_ZERO_ROW - value, column, "marker", name)
    _letter_scale(page, letters, columns)


def _crossed(xs: Sequence[float], values: Sequence[int]) -> list[tuple[int, int]]:
    """Patches in which at least half a patch length of the polyline lies."""
    lengths: NDArray[np.float64] = np.zeros((GRID, GRID))
    for x0, x1, y0, y1 in zip(xs, xs[1:], values, values[1:], strict=False):
        count = 256
        along = (np.arange(count) + 0.5) / count
        rows = np.floor(_ZERO_ROW + 0.5 - (y0 + (y1 - y0) * along)).astype(int)
        columns = np.floor(x0 + (x1 - x0) * along).astype(int)
        np.add.at(lengths, (rows, columns), math.hypot(x1 - x0, y1 - y0) / count)
    return [(int(row), int(column)) for row, column in np.argwhere(lengths >= 0.5)]


def pie(page: Page, colours: Sequence[str], shares: Sequence[int]) -> None:
    """Draw a pie on ``page`` with each share (per cent, two digits) printed in its slice."""
    rng = page.rng
    centre = SIDE / 2
    radius = rng.uniform(84, 92)
    borders = 2 * math.pi * np.concatenate(([0], np.cumsum(shares))) / 100
    while True:  # turn the pie until every slice has room for its number in whole patches
        turn = rng.uniform(0, 2 * math.pi)
        cells = [_room(low + turn, high + turn, radius) for low, high in pairwise(borders)]
        if all(cell is not None for cell in cells):
            break
    figure, axes = _axes(page)
    axes.set_xlim(0, SIDE)
    axes.set_ylim(SIDE, 0)
    inks = [page.ink(name) for name in colours]
    edge = _unit(page.background)
    for ink, (low, high) in zip(inks, pairwise(borders), strict=True):
        degrees = (math.degrees(low + turn), math.degrees(high + turn))
        axes.add_patch(Wedge((centre, centre), radius, *degrees, facecolor=_unit(ink), edgecolor=edge, linewidth=1.2))
    _render(page, figure)

    middles = (np.arange(GRID) + 0.5) * PATCH - centre
    x, y = np.meshgrid(middles, middles)
    angle = np.mod(np.arctan2(y, x) - turn, 2 * math.pi)
    owner = np.searchsorted(borders[1:-1], angle, side="right")
    for row, column in np.argwhere(np.hypot(x, y) <= radius):
        page.mark(int(row), int(column), "slice", colours[owner[row, column]])
    for name, ink, share, cell in zip(colours, inks, shares, cells, strict=True):
        assert cell is not None
        light = 0.3 * ink[0] + 0.59 * ink[1] + 0.11 * ink[2] > 125
        rgb = (16, 16, 16) if light else (250, 250, 250)
        page.text(*cell, str(share), "black" if light else "white", rgb=rgb, label=name, move=page.nudge(1))


def _room(low: float, high: float, radius: float) -> tuple[int, int] | None:
    """The patch (row, column) at which two digits sit best inside the slice from ``low`` to ``high`` (radians).

    The digits' box is 26 x 13 pixels; None if no pair of patches holds it.
    """
    rows, columns = np.mgrid[0:GRID, 0 : GRID - 1]
    worst = np.full(rows.shape, np.inf)
    for dx in (-13, 13):
        for dy in (-6.5, 6.5):
            x = (columns + 1) * PATCH + dx - SIDE / 2
            y = (rows + 0.5) * PATCH + dy - SIDE / 2
            reach = np.hypot(x, y)
            inside = np.mod(np.arctan2(y, x) - low, 2 * math.pi)
            side = np.minimum(inside, (high - low) - inside)
            # Distance in pixels to the nearer straight border (negative outside) and to the rim.
            gap = np.where(side < math.pi / 2, reach * np.sin(np.clip(side, -math.pi / 2, math.pi / 2)), reach)
            worst = np.minimum(worst, np.minimum(gap, radius - reach))
    row, column = np.unravel_index(int(np.argmax(worst)), worst.shape)
    return (int(row), int(column)) if worst[row, column] >= 1.5 else None
