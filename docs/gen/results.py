"""Numbers, tables and figures of the committed reports, for the pages that speak of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "reports" / "demo"
STYLE = ROOT / "vr_eval" / "reporting" / "templates" / "style.css.j2"
_FIGURE = re.compile(r'<figure>\s*<div class="wide">(<svg.*?</svg>)</div>.*?<figcaption>(.*?)</figcaption>', re.DOTALL)


@cache
def frame(grid: str, name: str = "table") -> pd.DataFrame:
    """A table of the committed report of `grid`, indexed by label."""
    return pd.read_csv(DEMO / grid / f"{name}.csv").set_index("label")


def value(grid: str, label: str, column: str = "average", decimals: int = 1) -> str:
    """One number of the report of `grid`."""
    return f"{frame(grid).loc[label, column]:.{decimals}f}"


def gain(grid: str, label: str, column: str = "pair") -> str:
    """One difference in points, signed."""
    return signed(float(frame(grid).loc[label, column]))


def signed(points: float) -> str:
    """Points with a sign, and a minus that is one."""
    return f"{points:+.1f}".replace("-", "−")


def more(grid: str, label: str, than: str, column: str) -> float:
    """By how much `column` of one row exceeds that of another."""
    rows = frame(grid)
    return float(rows.loc[label, column] - rows.loc[than, column])


def share(grid: str, label: str, than: str, column: str) -> str:
    """By how many percent `column` of one row exceeds that of another."""
    return f"{100 * more(grid, label, than, column) / frame(grid).loc[than, column]:.0f}"


def helped() -> list[tuple[str, float]]:
    """Configurations of the projectors grid whose gain from refusion is certain, by their projector, most first."""
    rows = frame("projectors").dropna(subset=["pair"])
    sure = rows[(rows["pair_low"] > 0)].sort_values("pair", ascending=False)
    return [(name.split(" + ")[0], float(gain)) for name, gain in zip(sure["method"], sure["pair"], strict=True)]


def on_the_grid() -> int:
    """Projectors of that grid that keep the patch grid, with and without Vision Remember."""
    rows = frame("projectors").dropna(subset=["pair"])
    return int((~rows.index.str.startswith("resampler")).sum())


def table(grid: str) -> str:
    """The table of a report with its caption, as the report writes it in Markdown."""
    text = (DEMO / grid / "table.md").read_text(encoding="utf-8")
    return text.partition("\n\n")[2].strip()


def figures(grid: str) -> list[tuple[str, str]]:
    """The figures of a report: inline SVG and caption."""
    return _FIGURE.findall((DEMO / grid / "report.html").read_text(encoding="utf-8"))


def figure(grid: str, number: int = 0) -> str:
    """A figure as HTML that can stand in a page."""
    svg, caption = figures(grid)[number]
    return f'<figure class="report">\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>'


def glyphs() -> pd.DataFrame:
    """What can be read from single tokens, in % of the glyphs, per configuration."""
    return frame("probe_tiny_imagenet", "single_tokens_which_glyph_is_under_it")


def colours() -> tuple[dict[str, str], dict[str, str]]:
    """The report's colours by name, light and dark."""
    parts = STYLE.read_text(encoding="utf-8").split(":root")[1:3]
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", part)) for part in parts)
    return light, dark


def rules() -> str:
    """The report's rules for the classes of a figure."""
    lines = STYLE.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if re.match(r"\.[fs]-\w+ \{|\.bold \{", line))


def style_sheet() -> str:
    """Colours of the figures in the site's two schemes."""
    light, dark = (" ".join(f"--{name}: {hexa};" for name, hexa in scheme.items()) for scheme in colours())
    return (
        f".report {{ {light} max-width: 100%; }}\n[data-md-color-scheme=slate] .report {{ {dark} }}\n"
        ".md-typeset figure.report { display: block; width: 100%; }\n"
        f".md-typeset .report svg {{ width: 100%; height: auto; }}\n{rules()}\n"
        # An equation's line goes on below, not out of sight.
        ".md-typeset .language-text code { white-space: pre-wrap; }\n"
    )
