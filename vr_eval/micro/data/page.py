"""The sheet that every suite draws on: pixels and dense labels kept in step."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vr_eval.micro.data.vocabulary import COLOUR_INDEX, COLOURS, GLYPH_INDEX, GRID, PATCH, SIDE

RGB = tuple[int, int, int]

# 32 levels per channel: invisible to the eye, and it halves the size of the committed PNG files.
_LEVELS = [min(255, (value + 4) // 8 * 8) for value in range(256)] * 3


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib ships this font, so no system font is needed; the basic layout does not depend on an optional library.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono-Bold.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def blend(first: RGB, second: RGB, share: float) -> RGB:
    """``first`` moved towards ``second`` by ``share`` (0 keeps ``first``)."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


class Page:
    """A 192 x 192 RGB sheet with a tinted background, and (12, 12) labels of what covers each patch.

    `anchors` is 1 at one patch of each object, whatever the number of patches that it covers, so that objects can be
    counted.
    """

    def __init__(self, rng: random.Random, *, dark_share: float = 0.15) -> None:
        self.rng = rng
        self.dark = rng.random() < dark_share
        level = rng.randint(24, 48) if self.dark else rng.randint(236, 250)
        red, green, blue = (max(0, min(255, level + rng.randint(-8, 8))) for _ in range(3))
        self.background: RGB = (red, green, blue)
        self.plain = "white" if self.dark else "black"
        self.size = rng.randint(14, 17)
        self.glyphs: NDArray[np.uint8] = np.zeros((GRID, GRID), dtype=np.uint8)
        self.colours: NDArray[np.uint8] = np.zeros((GRID, GRID), dtype=np.uint8)
        self.anchors: NDArray[np.uint8] = np.zeros((GRID, GRID), dtype=np.uint8)
        self.open(Image.new("RGB", (SIDE, SIDE), self.background))
        self._blotches()

    def open(self, image: Image.Image) -> None:
        """Take over ``image`` (RGB, 192 x 192) as what has been drawn so far."""
        self.image = image
        self.draw = ImageDraw.Draw(image)

    def ink(self, colour: str) -> RGB:
        """The colour as printed here: a little off its nominal value, lighter on a dark page."""
        rgb = COLOURS[colour]
        if self.dark:
            rgb = blend(rgb, (255, 255, 255), 0.25)
        red, green, blue = (max(0, min(255, value + self.rng.randint(-10, 10))) for value in rgb)
        return red, green, blue

    def faint(self, share: float = 0.75) -> RGB:
        """A line colour between the text's and the background's; ``share`` 1 is the background."""
        return blend(COLOURS[self.plain], self.background, share)

    def text(
        self,
        row: int,
        column: int,
        text: str,
        colour: str,
        *,
        rgb: RGB | None = None,
        label: str | None = None,
        move: tuple[int, int] | None = None,
    ) -> None:
        """Print ``text`` one character per patch, starting at patch (``row``, ``column``).

        The line as a whole is moved by ``move`` (right, down) pixels, by default a random ``nudge``. ``label``
        overrides the colour class (a digit on a pie slice is labelled with the slice's colour).
        """
        fill = rgb or self.ink(colour)
        font = _font(self.size)
        dx, dy = move or self.nudge()
        # DejaVu capitals are 0.73 em high: a baseline 0.365 em below the middle centres them.
        baseline = row * PATCH + PATCH / 2 + 0.365 * self.size + dy
        for offset, character in enumerate(text):
            if character == " ":
                continue
            middle = (column + offset) * PATCH + PATCH // 2 + dx
            self.draw.text((middle, round(baseline)), character, fill=fill, font=font, anchor="ms")
            self.mark(row, column + offset, character, label or colour)

    def nudge(self, reach: int = 2) -> tuple[int, int]:
        """A random shift of up to ``reach`` pixels each way."""
        return self.rng.randint(-reach, reach), self.rng.randint(-reach, reach)

    def mark(self, row: int, column: int, glyph: str, colour: str) -> None:
        """Label one patch; outside the sheet nothing happens."""
        if 0 <= row < GRID and 0 <= column < GRID:
            self.glyphs[row, column] = GLYPH_INDEX[glyph]
            self.colours[row, column] = COLOUR_INDEX[colour]

    def finish(self) -> Image.Image:
        """The final image: specks of dust, then 32 levels per channel."""
        for _ in range(self.rng.randint(0, 60)):
            place = self.rng.randrange(SIDE), self.rng.randrange(SIDE)
            self.draw.point(place, fill=blend(self.background, COLOURS[self.plain], self.rng.uniform(0.15, 0.4)))
        return self.image.point(_LEVELS)

    def _blotches(self) -> None:
        for _ in range(self.rng.randint(0, 3)):
            x, y = self.rng.randrange(SIDE), self.rng.randrange(SIDE)
            width, height = self.rng.randint(24, 90), self.rng.randint(24, 90)
            shade = self.rng.randint(-10, 10)
            red, green, blue = (max(0, min(255, value + shade)) for value in self.background)
            self.draw.ellipse((x - width, y - height, x + width, y + height), fill=(red, green, blue))
