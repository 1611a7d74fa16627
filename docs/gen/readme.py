"""What README.md shows of the committed reports: its table and its picture.

    python docs/gen/readme.py

writes both anew; a test holds the README to it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gen.markdown import table
from gen.results import ROOT, colours, figures, frame, rules, signed

GRID = "projectors"
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "img" / f"{GRID}.svg"
BLOCK = re.compile(r"(<!-- made by docs/gen/readme.py -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def readme_table() -> str:
    """Every configuration of the projectors grid, in 8 columns; differences without a pair are left empty."""
    rows = []
    for _, row in frame(GRID).astype(object).fillna("").iterrows():
        suites = [f"{row[suite]:.1f}" for suite in ("ocr", "chart", "doc", "general")]
        average = f"{row['average']:.1f} ({row['average_low']:.1f} to {row['average_high']:.1f})"
        gain = row["pair"] and signed(row["pair"]) + row["pair_mark"].replace("*", r"\*")
        rows.append([row["method"], str(row["tokens"]), *suites, average, gain])
    head = ["Method", "Tokens", "OCR", "Chart", "Document", "General", "Average", "Gain"]
    return table(head, rows, numbers=range(1, 8))


def picture() -> str:
    """The report's figure as a file of its own, in the reader's colours."""
    svg, _ = figures(GRID)[0]
    light, dark = (" ".join(f"--{name}: {hexa};" for name, hexa in scheme.items()) for scheme in colours())
    style = f"svg {{ {light} font-family: sans-serif; }}\n@media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"
    paper = '<rect class="f-paper" width="100%" height="100%"/>'
    head, end, body = svg.partition(">")
    return f"{head}{end}<style>{style}\n{rules()}</style>{paper}{body}\n"


def main() -> None:
    """Write the table and the picture."""
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda match: f"{match[1]}{readme_table()}\n{match[3]}", text), encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
