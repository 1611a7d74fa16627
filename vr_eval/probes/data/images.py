"""Image files and encoded images, decoded with an error that names what cannot be read."""

from __future__ import annotations

from pathlib import Path

from PIL.Image import Image

from vr_eval.errors import InputError, Problem
from vr_eval.models.reading import UnreadableImage, read_image


def decoded(content: Path | bytes, name: str) -> Image:
    """The RGB image in a file or in bytes; `name` is how messages call it. Raises InputError if it cannot be read."""
    try:
        return read_image(content)
    except UnreadableImage as error:
        hint = "Restore the file; what was computed is kept, and the same command goes on."
        said = f"{error} ({error.__cause__})" if error.__cause__ is not None else str(error)
        raise InputError(Problem(f"this image cannot be read: {said}", file=name, hint=hint)) from error
