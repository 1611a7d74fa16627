"""Decoder pre-training: what a transcript says, and that the ratios share one set of weights."""

from __future__ import annotations

import numpy as np

from vr_eval.micro.build.decoder import transcript
from vr_eval.micro.data import COLOURS, GLYPHS

NAMES = ("", *COLOURS)


def labels(rows: list[list[tuple[str, str]]]) -> tuple[np.ndarray, np.ndarray]:
    glyphs = np.array([[GLYPHS.index(glyph) for glyph, _ in row] for row in rows], dtype=np.uint8)
    colours = np.array([[NAMES.index(colour) for _, colour in row] for row in rows], dtype=np.uint8)
    return glyphs, colours


def test_a_transcript_reads_rows_and_runs_of_one_colour() -> None:
    none = ("blank", "")
    page = [
        [("7", "red"), ("K", "red"), none, ("2", "blue")],
        [none, none, none, none],
        [none, ("star", "pink"), ("star", "pink"), none],
    ]
    assert transcript(*labels(page)) == "red 7K blue 2\npink star star"


def test_what_fills_areas_is_not_transcribed() -> None:
    page = [[("bar", "red"), ("bar_top", "red"), ("slice", "green"), ("line", "blue")]]
    assert transcript(*labels(page)) == "red bar_top"


def test_a_blank_between_two_runs_of_one_colour_separates_them() -> None:
    page = [[("7", "red"), ("blank", ""), ("K", "red")]]
    assert transcript(*labels(page)) == "red 7 red K"
