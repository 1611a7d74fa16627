"""Images of any file as what a processor takes: upright, 8 bits, RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile, ImageOps


@contextmanager
def whole_images() -> Iterator[None]:
    """A truncated image is an error: importing lmms-eval makes Pillow fill it up with grey without a word."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def upright(image: Image.Image) -> Image.Image:
    """`image` as RGB, turned as its EXIF data says; the first frame of an animation, 16-bit greys scaled to 8 bits.

    An alpha channel is left out, as in the official code: what is under transparent pixels is seen.

    Raises:
        OSError: the file is broken.
    """
    if getattr(image, "is_animated", False):
        image.seek(0)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow would cut every value above 255 off
        grey = np.asarray(image).astype(np.float64)
        most = 65535 if image.mode.startswith("I;16") or grey.max(initial=0) > 255 else 255
        image = Image.fromarray(np.clip(grey * 255 / most, 0, 255).round().astype(np.uint8))
    return image.convert("RGB")
