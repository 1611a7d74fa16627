"""Images of any file as what a processor takes: upright, 8 bits, RGB. The one place that decodes image files."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

_MOST_PIXELS = 178_956_970  # where Pillow refuses; other libraries of a process lift its limit
_TOO_LARGE = f"an image has more than {_MOST_PIXELS:,} pixels"
_LONGEST = 200  # times the shorter side: a processor that enlarges the shorter side would fill the memory
_LEFT_OUT = {"EPS"}  # Pillow would start Ghostscript, another program, on whatever the file holds


class UnreadableImage(ValueError):
    """Why an image cannot be used, in words that many images can share; the cause says more of this one."""


@contextmanager
def _own_limits() -> Iterator[None]:
    """A truncated image is an error, and one that is too large is: importing lmms-eval and its tasks lifts both.

    Pillow would fill the first up with grey without a word, and find the second within an icon only as it decodes it.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, _MOST_PIXELS // 2  # it warns of a half
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


def read_image(source: Path | bytes) -> Image.Image:
    """The image in a file, or in a file's bytes, as `upright` makes it.

    Raises:
        UnreadableImage: it is missing or damaged, too large or too narrow, or its values mean no brightness.
    """
    try:
        return _read(source)
    except UnreadableImage:
        raise
    except FileNotFoundError as error:
        raise UnreadableImage("an image is missing") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage(_TOO_LARGE) from error
    # A damaged file makes decoders raise whatever they stumble over: struct.error, IndexError, MemoryError and more.
    except Exception as error:
        raise UnreadableImage("an image cannot be read") from error


def _read(source: Path | bytes) -> Image.Image:
    # To open a pipe would wait for whoever writes to it.
    if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
        raise UnreadableImage("an image is no file")
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with _own_limits(), Image.open(file, formats=_formats()) as opened:
        _check_size(opened)
        image = upright(opened)
    _check_size(image)  # some formats say it only once they are decoded
    return image


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in _LEFT_OUT)


def _check_size(image: Image.Image) -> None:
    shorter, longer = sorted(image.size)
    if shorter * longer > _MOST_PIXELS:
        raise UnreadableImage(_TOO_LARGE)
    if longer > _LONGEST * shorter:
        raise UnreadableImage(f"an image is more than {_LONGEST} times as long as it is wide")


def upright(image: Image.Image) -> Image.Image:
    """`image` as RGB, turned as its EXIF data says; the first frame of an animation.

    An alpha channel is left out, as in the official code: what is under transparent pixels is seen. Greys of more than
    8 bits are scaled: 16-bit ones from 0 to 65535, 32-bit ones likewise unless none is above 255, and floats from 0 to
    1. Floats up to 255 are taken as they are; where the largest is between 1 and 2, they may be meant either way.

    Raises:
        UnreadableImage: greys are negative, above 65535 or, of floats, 255, no numbers, or may be meant both ways.
        Exception: whatever Pillow raises of a damaged file.
    """
    if getattr(image, "is_animated", False):
        image.seek(0)
    # Pillow reads all greys of a PGM file with more than 8 bits as 16, and does not say so.
    wide = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow would cut every value above 255 off
        grey = np.asarray(image)
        most = 65535 if wide or grey.max(initial=0) > 255 else 255
        image = _eight_bits(grey, most, 65535)
    elif image.mode == "F":  # Pillow would make values up to 1 black
        grey = np.asarray(image)
        if 1 < grey.max(initial=0) < 2:
            raise UnreadableImage("an image has greys that may be meant from 0 to 1 or from 0 to 255")
        image = _eight_bits(grey, 255 if grey.max(initial=0) > 1 else 1, 255)
    return image.convert("RGB")


def _eight_bits(grey: NDArray[Any], white: int, limit: int) -> Image.Image:
    """Greys between 0 and `white`. Raises UnreadableImage: one is none from 0 to `limit`."""
    if not bool(np.all((grey >= 0) & (grey <= limit))):  # of NaN, both are false
        raise UnreadableImage(f"an image has greys that are not between 0 and {limit}")
    return Image.fromarray((grey.astype(np.float32) * (255 / white)).round().astype(np.uint8))
