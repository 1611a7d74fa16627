"""Image files and encoded images, decoded with an error that names what cannot be read."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from PIL.Image import DecompressionBombError, Image

from vr_eval.errors import InputError, Problem
from vr_eval.models.reading import whole_images


def decoded(content: Path | bytes, name: str) -> Image:
    """The RGB image in a file or in bytes; `name` is how messages call it. Raises InputError if it cannot be read."""
    try:
        with whole_images(), PillowImage.open(content if isinstance(content, Path) else io.BytesIO(content)) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, DecompressionBombError, ValueError, SyntaxError) as error:
        hint = "Restore the file; what was computed is kept, and the same command goes on."
        raise InputError(Problem(f"this image cannot be read: {error}", file=name, hint=hint)) from error
