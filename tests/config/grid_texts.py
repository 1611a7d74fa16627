"""Grid files and task files that several tests start from."""

from __future__ import annotations

from pathlib import Path

SUITES = ("ocr", "chart", "doc", "general")

MINIMAL = """\
name: small
backbone: micro
cells:
  - {projector: mlp}
"""

PRODUCT = """\
name: product
backbone: micro
seeds: [0]
suites: [ocr, chart, doc, general]
grid:
  projector: [avg_pool, tokenpacker]
  ratio: [4]
  refusion: [none, vision_remember]
cells:
  - {projector: mlp}
baseline: {projector: mlp}
"""


def write_task(root: Path, name: str, version: object) -> None:
    text = f"task: {name}\ndoc_to_text: !function utils.text\nmetadata:\n  version: {version}\n"
    (root / "tasks" / "micro" / f"{name}.yaml").write_text(text)
