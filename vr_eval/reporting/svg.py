"""Matplotlib figures as SVG that can stand inside a page with a strict content policy and follow its colours.

Matplotlib writes `style="..."` attributes and a `<style>` element, which such a policy refuses, and fixed colours,
which a dark page makes unreadable. Here styles become attributes, and the colours of ``Ink`` become classes that the
page's style sheet fills (`f-ink`, `s-c0`, ...). Text stays text in the page's font. The same figure always gives the
same bytes.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import seaborn
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "{http://www.w3.org/1999/xlink}href"
WIDE_PX, NARROW_PX = 880, 352
PX_PER_INCH = 72
HUES = 8
MARKERS = "osD^vP"

# Stand-ins: no other colour of a figure may be this close to black.
INK, MUTED, RULE, PAPER = "#000001", "#000002", "#000003", "#000004"
_ROLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper"}


def hue(index: int) -> str:
    """Stand-in for the page's colour number ``index``; the colours repeat after ``HUES``."""
    return f"#0000{0x10 + index % HUES:02x}"


@dataclass(frozen=True)
class Drawing:
    """One figure in a wide and a narrow drawing: text that shrinks with its figure cannot be read on a phone."""

    name: str
    caption: str
    wide: Markup
    narrow: Markup


_ROLES |= {hue(index): f"c{index}" for index in range(HUES)}


@contextmanager
def drawing() -> Iterator[None]:
    """Settings under which a figure must be made and written, untouched by the user's own settings."""
    settings = {
        "svg.hashsalt": "vr-eval",
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],
        "font.size": 12,
        "text.color": INK,
        "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED,
        "axes.linewidth": 1,
        "axes.grid": False,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def to_svg(figure: Figure, prefix: str, title: str) -> Markup:
    """The figure as an inline ``<svg>``, safe to put into HTML: its texts are escaped by the XML writer.

    Args:
        figure: Made within ``drawing``.
        prefix: Starts every id, so that several figures can share a page.
        title: What the figure shows, for those who cannot see it.
    """
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _rewrite(element, prefix)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", title)
    ElementTree.register_namespace("", SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _rewrite(element: ElementTree.Element, prefix: str) -> None:
    classes = []
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            element.set("font-size", size.group(1) if size else "12")
            classes += ["bold"] if re.match(r"(bold|[6-9]00)\b", value) else []
        elif name in ("fill", "stroke") and value in _ROLES:
            classes.append(f"{name[0]}-{_ROLES[value]}")
        elif name and name != "font-family":  # the page's own
            element.set(name, value)
    if classes:
        element.set("class", " ".join(classes))
    if "id" in element.attrib:
        element.set("id", f"{prefix}-{element.attrib['id']}")
    link = element.attrib.pop(XLINK, None)
    if link is not None:
        element.set("href", link.replace("#", f"#{prefix}-"))
    for name, value in element.attrib.items():
        if value.startswith("url(#"):
            element.set(name, value.replace("url(#", f"url(#{prefix}-"))


def pixel_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes placed in pixels from the figure's upper left corner, with nothing drawn around them but their ticks."""
    total_width, total_height = (PX_PER_INCH * size for size in figure.get_size_inches())
    box = (left / total_width, 1 - (top + height) / total_height, width / total_width, height / total_height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    seaborn.despine(ax=axes, left=True, bottom=True)
    axes.tick_params(length=0)
    return axes


def pixel_text(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text whose left end and vertical middle lie at pixels from the figure's upper left corner."""
    width, height = (PX_PER_INCH * size for size in figure.get_size_inches())
    figure.text(x / width, 1 - y / height, text, **{"va": "center", "ha": "left"} | style)


def pixel_figure(width: float, height: float) -> Figure:
    """An empty figure of so many pixels."""
    return Figure(figsize=(width / PX_PER_INCH, height / PX_PER_INCH))
