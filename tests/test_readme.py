"""The README says what the program says."""

from __future__ import annotations

from pathlib import Path

import pytest

from vr_eval.config.schema import document_keys
from vr_eval.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


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
