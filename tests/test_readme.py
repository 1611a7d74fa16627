"""The README says what the program says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from vr_eval.cli import _parser
from vr_eval.config.grid import load_grid
from vr_eval.config.schema import document_keys
from vr_eval.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^ {4,}(?:\S+ )?vr-eval (.+?)(?: {2,}#.*)?$", README, re.MULTILINE)
PLACEHOLDERS = {"FILE": "projectors", "DIR": "runs/x", "tokenpacker|deepstack|cambrian": "cambrian"}


def test_every_key_is_documented_in_the_programs_own_words() -> None:
    indented = "\n".join(f"    {line}".rstrip() for line in document_keys().strip().splitlines())
    assert indented in README


def test_every_method_is_named() -> None:
    for name in METHODS:
        assert name in README


@pytest.mark.parametrize("grid", ["projectors", "baselines", "refusion", "resolution"])
def test_every_number_is_that_of_the_committed_report(grid: str) -> None:
    table = (ROOT / "reports" / "demo" / grid / "table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) > 5
    for row in rows:
        assert row in README


def test_what_it_says_of_single_tokens_is_in_the_committed_probes() -> None:
    table = ROOT / "reports" / "demo" / "probe_tiny_imagenet" / "single_tokens_which_glyph_is_under_it.csv"
    found = pd.read_csv(table).set_index("label")
    quarter = found[found.index.str.fullmatch(r"\w+ 1/4")]
    again = found.loc[[f"{label} + vision_remember" for label in quarter.index], "end"]
    gains = again.to_numpy() - quarter["end"].to_numpy()
    lost = -quarter["bottleneck"]
    ends = (found.loc[["mlp", "mlp + fastv [keep_ratio=0.25]", "mlp + random [keep_ratio=0.25]"], "end"]).tolist()
    told = " ".join(README.split("Read off that report")[1].split("\n\n")[0].split())
    figures = "{:.0f} % of the glyphs|{:.0f} % with FastV|{:.0f} % with random".format(*ends).split("|")
    figures += [f"lose {lost.min():.0f} (", f"to {lost.max():.0f} points"]
    figures += [f"{gains.min():.0f} to {gains.max():.0f} points"]
    for figure in figures:
        assert figure in told
    assert (lost.idxmin(), lost.idxmax()) == ("pixel_shuffle 1/4", "avg_pool 1/4")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command: str) -> None:
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)]
    assert callable(_parser().parse_args(words).command)


def test_the_grid_that_goes_to_the_cluster_trains_nothing(tmp_path: Path) -> None:
    text = README.split("## From laptop to cluster")[1].split("1. **Install**")[0]
    lines = [line.removeprefix("    ") for line in text.splitlines() if line.startswith("    ")]
    (tmp_path / "fastv_llava.yaml").write_text("\n".join(lines))
    grid = load_grid(tmp_path / "fastv_llava.yaml")
    assert all(cell.pretrained for cell in grid.cells)
    assert [grid.is_baseline(cell) for cell in grid.cells] == [True, False]
    assert grid.suites == ("ocr", "chart", "doc")
