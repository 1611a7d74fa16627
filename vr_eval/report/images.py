"""The images that a report embeds: where a run keeps them, how they get there and how they come into the page.

A run keeps only the images of the samples that its report shows, as `images/<task>/<cluster>.png` in the run directory,
shrunk to what a page needs.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vr_eval.files import write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_SIDE_PX = 768
LARGEST_IMAGE_BYTES = 1_500_000
BUDGET_BYTES = 40_000_000
PNG = b"\x89PNG\r\n\x1a\n"

# (task, cluster) -> PNG, or None if the image was not kept.
ImageSource = Callable[[str, str], bytes | None]


def image_path(run_dir: Path, task: str, cluster: str) -> Path:
    """Where a run keeps the image ``cluster`` of ``task``; a name that is no plain file name is hashed."""
    return run_dir / "images" / _file_name(task) / f"{_file_name(cluster)}.png"


def save_image(run_dir: Path, task: str, cluster: str, image: Image) -> Path:
    """Keep ``image`` for the report, shrunk to ``LONGEST_SIDE_PX``; the file is written in one step.

    Raises:
        InputError: The disk is full or the folder cannot be written.
    """
    small = image.convert("RGB")
    small.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    path = image_path(run_dir, task, cluster)
    write_atomic(path, buffer.getvalue())
    return path


def kept_images(run_dir: Path) -> ImageSource:
    """The images that the run directory keeps."""

    def read(task: str, cluster: str) -> bytes | None:
        path = image_path(run_dir, task, cluster)
        return path.read_bytes() if path.is_file() else None

    return read


class Album:
    """Collects images as data URIs, each distinct image once, within a budget of bytes for the whole page."""

    def __init__(self, source: ImageSource, budget_bytes: int = BUDGET_BYTES) -> None:
        self._source = source
        self._left = budget_bytes
        self.uris: dict[str, str] = {}

    def add(self, task: str, cluster: str) -> tuple[str, str]:
        """(key in ``uris``, "") or ("", why the page does not show the image)."""
        try:
            content = self._source(task, cluster)
        except OSError as error:
            return "", f"The image could not be read ({error.strerror})."
        if content is None:
            return "", "The run does not keep this image."
        if not content.startswith(PNG):
            return "", "The kept image is broken."
        key = hashlib.sha256(content).hexdigest()[:16]
        if key not in self.uris:
            if len(content) > min(self._left, LARGEST_IMAGE_BYTES):
                return "", "The image is too large for this page."
            self._left -= len(content)
            self.uris[key] = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
        return key, ""


def _file_name(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
        return name
    return "x" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]
