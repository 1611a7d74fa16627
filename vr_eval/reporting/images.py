"""The images that a report embeds: where a run keeps them, how they get there and how they come into the page.

A run keeps only the images of the samples that its report shows, shrunk to what a page needs: drawings as PNG, and
photographs and scans, which are many times as large that way, as WebP. The first image of a sample is
``images/<task>/<cluster>.png`` in the run directory, any further ones lie in ``images/<task>/<cluster>.more/``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vr_eval.files import write_atomic
from vr_eval.records.folder import RunFolder

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_SIDE_PX = 768
LARGEST_PNG_BYTES = 100_000
LARGEST_IMAGE_BYTES = 1_500_000
BUDGET_BYTES = 40_000_000
MOST_IMAGES = 8
"""So many images of one sample are kept; none of the official tasks shows more than seven."""
WEBP_QUALITY = 75
PNG = b"\x89PNG\r\n\x1a\n"
SUFFIXES = {".png": "image/png", ".webp": "image/webp"}

# (task, cluster) -> its images in reading order, PNG or WebP; none if they were not kept.
ImageSource = Callable[[str, str], Sequence[bytes]]


def image_path(run_dir: Path, task: str, cluster: str, number: int = 0, suffix: str = ".png") -> Path:
    """Where a run keeps image ``number`` of ``cluster`` of ``task``; a name that is no plain file name is hashed."""
    folder, name = RunFolder(run_dir).images / _file_name(task), _file_name(cluster)
    return folder / f"{name}.more" / f"{number + 1}{suffix}" if number else folder / f"{name}{suffix}"


def has_images(run_dir: Path, task: str, cluster: str) -> bool:
    """Whether the run keeps the images of ``cluster`` of ``task``."""
    return _kept(run_dir, task, cluster, 0) is not None


def forget_images(run_dir: Path, task: str) -> None:
    """Remove the images of ``task``: its data is another now."""
    shutil.rmtree(image_path(run_dir, task, "").parent, ignore_errors=True)


def save_images(run_dir: Path, task: str, cluster: str, images: Sequence[Image]) -> None:
    """Keep ``images``, those of one sample in reading order, for the report: shrunk to ``LONGEST_SIDE_PX``.

    Every file is written in one step and the first image last, so that where it is there all are.

    Raises:
        InputError: The disk is full or the folder cannot be written.
    """
    for number in reversed(range(min(len(images), MOST_IMAGES))):
        suffix, content = _shrunk(images[number])
        write_atomic(image_path(run_dir, task, cluster, number, suffix), content)


def kept_images(run_dir: Path) -> ImageSource:
    """The images that the run directory keeps."""

    def read(task: str, cluster: str) -> list[bytes]:
        found = [_kept(run_dir, task, cluster, number) for number in range(MOST_IMAGES)]
        return [path.read_bytes() for path in found if path is not None]

    return read


class Album:
    """Collects images as data URIs, each distinct image once, within a budget of bytes for the whole page."""

    def __init__(self, source: ImageSource, budget_bytes: int = BUDGET_BYTES) -> None:
        self._source = source
        self._left = budget_bytes
        self.uris: dict[str, str] = {}

    def add(self, task: str, cluster: str) -> tuple[list[str], str]:
        """The images' keys in ``uris``, and why the page does not show one or any; empty if it shows all."""
        try:
            contents = self._source(task, cluster)
        except OSError as error:
            return [], f"The image could not be read ({error.strerror})."
        added = [self._add(content) for content in contents]
        reasons = [reason for _, reason in added if reason] if contents else ["The run does not keep this image."]
        return [key for key, _ in added if key], reasons[0] if reasons else ""

    def _add(self, content: bytes) -> tuple[str, str]:
        """(key in ``uris``, "") or ("", why not)."""
        kind = _kind(content)
        if kind is None:
            return "", "The kept image is broken."
        key = hashlib.sha256(content).hexdigest()[:16]
        if key not in self.uris:
            if len(content) > min(self._left, LARGEST_IMAGE_BYTES):
                return "", "The image is too large for this page."
            self._left -= len(content)
            self.uris[key] = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
        return key, ""


def _kept(run_dir: Path, task: str, cluster: str, number: int) -> Path | None:
    paths = (image_path(run_dir, task, cluster, number, suffix) for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _shrunk(image: Image) -> tuple[str, bytes]:
    """The suffix and content of the file that keeps ``image``."""
    small = image.convert("RGB")
    small.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    # Packing a photograph as well as PNG can takes a second, only to find that it is too large.
    if len(_encoded(small, "PNG", compress_level=1)) <= 2 * LARGEST_PNG_BYTES:
        content = _encoded(small, "PNG", optimize=True)
        if len(content) <= LARGEST_PNG_BYTES:
            return ".png", content
    return ".webp", _encoded(small, "WEBP", quality=WEBP_QUALITY)


def _encoded(image: Image, form: str, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _kind(content: bytes) -> str | None:
    """The media type of an image that may stand in the page."""
    if content.startswith(PNG):
        return SUFFIXES[".png"]
    return SUFFIXES[".webp"] if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else None


def _file_name(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
        return name
    return "x" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]
