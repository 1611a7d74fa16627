"""What a patch of a micro image can show: the classes of the dense labels, the colours, and the grid.

All values are ours. Class 0 always means "nothing here" (blank glyph, background colour).
"""

from __future__ import annotations

SUITES: tuple[str, ...] = ("ocr", "chart", "doc", "general")
SPLITS: tuple[str, ...] = ("train", "validation", "test")

PATCH = 16  # pixels
GRID = 12  # patches per side; divides by 2, 3, 4 and 6, so every compression ratio has a whole window
SIDE = PATCH * GRID  # pixels

DIGITS = "0123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIGNS = ".:-"
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "diamond")
# "bar_top" and "marker" are the patches that carry a value, so the tower has to tell them from the rest of the mark.
MARKS: tuple[str, ...] = ("bar", "bar_top", "line", "marker", "slice")

GLYPHS: tuple[str, ...] = ("blank", *DIGITS, *LETTERS, *SIGNS, *SHAPES, *MARKS)
GLYPH_INDEX: dict[str, int] = {name: index for index, name in enumerate(GLYPHS)}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 24, 32),
    "orange": (240, 136, 16),
    "green": (24, 144, 56),
    "blue": (32, 72, 216),
    "purple": (128, 40, 168),
    "pink": (240, 104, 184),
    "black": (24, 24, 24),
    "white": (248, 248, 248),
}
COLOUR_INDEX: dict[str, int] = {name: index for index, name in enumerate(COLOURS, start=1)}
HUES: tuple[str, ...] = ("red", "orange", "green", "blue", "purple", "pink")  # readable on light and on dark pages
