"""The conversations of one stage, whatever form they come in: LLaVA's files and what the datasets library loads."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from vr_eval.catalog.recipe import StageData
from vr_eval.errors import InputError, Problem
from vr_eval.models.reading import UnreadableImage, read_image
from vr_eval.training.columns import encoded_images, image_files
from vr_eval.training.llava_file import llava_records
from vr_eval.training.tables import load_rows
from vr_eval.training.typed import BrokenSample, Dialogue, dialogue_of, name_of, parsed

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Records:
    """The conversations of one stage, in their order."""

    rows: Dataset
    image_folder: Path | None
    of_json: bool
    """Whether a row holds one record as JSON, and no columns of its own."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Dialogue:
        """Raises BrokenSample: it holds no whole conversation."""
        return dialogue_of(self._record(self.rows, row))

    def name(self, row: int) -> str:
        """The `id` of a row, or its number."""
        if not self.of_json and "id" not in self.rows.column_names:
            return str(row)
        column = self.rows.select_columns("record" if self.of_json else "id")
        try:
            return name_of(self._record(column, row), row)
        except BrokenSample:
            return str(row)

    def load(self, image: str | bytes) -> Image.Image:
        """One image of a dialogue as upright RGB. Raises BrokenSample: it is missing, or cannot be used."""
        try:
            if isinstance(image, bytes):
                return read_image(image)
            return read_image(self.image_folder / image if self.image_folder is not None else Path(image))
        except UnreadableImage as error:
            raise BrokenSample(str(error)) from error

    @property
    def commit(self) -> str | None:
        """Of data of the hub the commit that they are of; None where nothing says it.

        The library keeps what it prepared of a dataset in a folder that is named by it.
        """
        folders = {Path(file["filename"]).parent.name for file in self.rows.cache_files}
        found = [name for name in folders if COMMIT.fullmatch(name)]
        return found[0] if len(found) == 1 else None

    def identity(self) -> str:
        """Stands for the rows and all image files that they name: it changes when one is added, changed or removed.

        Each file is asked for its size and time alone. Images that the rows hold themselves are a part of the rows.
        """
        folder = os.fsencode(Path(self.image_folder or ".").resolve())
        digest = hashlib.sha256(folder)
        names = image_files(self.rows, ("files",)) if self.of_json else image_files(self.rows)
        for name in sorted(set(names)):
            digest.update(name + b"\0" + _state(os.path.join(folder, name)) + b"\0")  # noqa: PTH118 (names are bytes)
        # Kept records are named by their content. Of what the library loads, this stands for it; it has no public name.
        kept = sorted(Path(file["filename"]).name for file in self.rows.cache_files)
        digest.update(str(kept if self.of_json else getattr(self.rows, "_fingerprint", "")).encode())
        return digest.hexdigest()

    def _record(self, rows: Dataset, row: int) -> Any:
        try:
            given = rows[row]
        except Exception as error:  # whatever the libraries raise of a damaged table
            raise BrokenSample("its row cannot be read") from error
        return parsed(given["record"]) if self.of_json else given


def open_records(data: StageData) -> Records:
    """The conversations that `data` names.

    Raises:
        InputError: there are none, or not in a form that is known.
    """
    path = Path(data.name).expanduser()
    folder = Path(data.image_folder).expanduser() if data.image_folder is not None else None
    if folder is None and path.exists():
        folder = path if path.is_dir() else path.parent
    if data.is_llava_file:
        return Records(llava_records(path, data.identity()), folder, of_json=True)
    rows, of_json = load_rows(data)
    found = Records(rows if of_json else encoded_images(rows), folder, of_json=of_json)
    revision = data.name.partition("@")[2]
    # Without network the library gives what it prepared last, whatever revision it is asked for.
    if COMMIT.fullmatch(revision) and found.commit not in (None, revision):
        hint = "Fetch it where there is network: vr-eval fetch."
        message = "the cache holds another revision of it, and the hub cannot be asked"
        raise InputError(Problem(message, file=data.name, given=found.commit, allowed=revision, hint=hint))
    return found


def _state(path: bytes) -> bytes:
    """What a file's reading depends on, without reading it."""
    try:
        found = os.stat(path)  # noqa: PTH116 (a path of bytes)
    except (OSError, ValueError):
        return b"missing"
    return f"{found.st_size} {found.st_mtime_ns} {found.st_mode}".encode()
