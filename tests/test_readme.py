"""The README says what the program says."""

from __future__ import annotations

from pathlib import Path

from vr_eval.config.schema import document_keys
from vr_eval.methods.registry import METHODS

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_every_key_is_documented_in_the_programs_own_words() -> None:
    indented = "\n".join(f"    {line}".rstrip() for line in document_keys().strip().splitlines())
    assert indented in README


def test_every_method_is_named() -> None:
    for name in METHODS:
        assert name in README
