"""Pooled features on disk: one memory-mapped array per tap, written shard by shard, each with its checksum.

    FOLDER/KEY/manifest.json    what the features are of
    FOLDER/KEY/features.npy     float32 (images, width)
    FOLDER/KEY/shards.jsonl     one line per finished shard: {"shard": 3, "sha256": "..."}

KEY says all that the features depend on (keys.py). A shard's line is written after its rows are on the disk, so a kill
at any moment loses at most the shard that was being computed. Nothing is read without its checksum being compared.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vr_eval.errors import InputError, Problem
from vr_eval.files import append_line, atomic_target, write_atomic
from vr_eval.runs.lease import waited_for

SHARD = 256
"""Images of one shard."""

Features = NDArray[np.float32]


@dataclass
class TapStore:
    """The features of one tap for one set of images.

    Attributes:
        folder: Named by the key.
        rows: Images.
        about: Goes into the manifest, for people.
    """

    folder: Path
    rows: int
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises InputError where the folder holds something else."""
        self._array: Any = None
        self._sums = self._read_sums()
        self._width = self._read_width()

    @property
    def shards(self) -> int:
        """How many shards the images fill; the last one may be shorter."""
        return math.ceil(self.rows / SHARD)

    @property
    def missing(self) -> list[int]:
        """Shards that have to be computed."""
        return [shard for shard in range(self.shards) if shard not in self._sums]

    def write(self, shard: int, features: Features) -> None:
        """Keep the rows of one shard, ``(rows of the shard, width)``, unless another worker has kept them.

        Raises:
            InputError: the disk is full or cannot be written, or the width is another one than before.
            ValueError: not the shard's number of rows, or a value that is not finite.
        """
        span = self.span(shard)
        if len(features) != span.stop - span.start:
            raise ValueError(f"{len(features)} rows for a shard of {span.stop - span.start}")
        if not np.isfinite(features).all():
            raise ValueError(f"a feature of {self.about.get('tap', 'a tap')} is not finite")
        with waited_for(self.folder.parent / ".leases", self.folder.name, lambda holder: None, "writes features"):
            self._sums, self._width = self._read_sums(), self._read_width()
            if shard not in self._sums:  # or else another worker was here: what is there is never written over
                self._add(shard, features)

    def _add(self, shard: int, features: Features) -> None:
        if self._width is None:
            self._create(features.shape[1])
        if features.shape[1] != self._width:
            raise self._stale(f"it holds {self._width} channels, the model has {features.shape[1]}")
        array = self._open("r+")
        array[self.span(shard)] = features
        array.flush()
        digest = _sum(np.ascontiguousarray(features, dtype=np.float32))
        append_line(self.folder / "shards.jsonl", json.dumps({"shard": shard, "sha256": digest}))
        self._sums[shard] = digest

    def read(self) -> Features:
        """All rows ``(rows, width)``, memory-mapped and read-only; every shard's checksum is compared first.

        Raises:
            InputError: a shard was changed on the disk.
            ValueError: a shard is missing.
        """
        if self.missing:
            raise ValueError(f"{len(self.missing)} shards are missing")
        array = self._open("r")
        for shard, expected in self._sums.items():
            if _sum(array[self.span(shard)]) != expected:
                hint = "Delete this folder; its features are computed again."
                problem = Problem(f"stored features are damaged (shard {shard})", file=str(self.folder), hint=hint)
                raise InputError(problem)
        features: Features = array
        return features

    def span(self, shard: int) -> slice:
        """The rows of a shard."""
        return slice(shard * SHARD, min((shard + 1) * SHARD, self.rows))

    def _create(self, width: int) -> None:
        with atomic_target(self.folder / "features.npy") as temporary, temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, width)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 4 * self.rows * width)
        manifest = {"key": self.folder.name, "rows": self.rows, "width": width, "shard": SHARD, **self.about}
        write_atomic(self.folder / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        self._width = width

    def _open(self, mode: Literal["r", "r+"]) -> Any:
        if self._array is None or self._array[0] != mode:
            try:
                self._array = (mode, np.load(self.folder / "features.npy", mmap_mode=mode))
            except (OSError, ValueError) as error:
                raise self._stale(f"its array cannot be read: {error}") from error
            if self._array[1].shape != (self.rows, self._width):
                raise self._stale("its array has another shape than its manifest says")
        return self._array[1]

    def _read_width(self) -> int | None:
        path = self.folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found = {name: manifest[name] for name in ("key", "rows", "shard")}
            width = int(manifest["width"])
        except FileNotFoundError:
            if self._sums:
                raise self._stale("it has shards, but no manifest") from None
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._stale("its manifest cannot be read") from error
        if found != {"key": self.folder.name, "rows": self.rows, "shard": SHARD}:
            raise self._stale("its manifest is of another model or other images")
        return width

    def _read_sums(self) -> dict[int, str]:
        sums = {}
        try:
            lines = (self.folder / "shards.jsonl").read_text(encoding="utf-8").splitlines()
        except OSError:
            return {}
        for line in lines:
            try:
                entry = json.loads(line)
                sums[int(entry["shard"])] = str(entry["sha256"])
            except (ValueError, KeyError, TypeError):  # the torn line of a kill: its shard is computed again
                continue
        return {shard: digest for shard, digest in sums.items() if 0 <= shard < self.shards}

    def _stale(self, why: str) -> InputError:
        hint = "Delete this folder; its features are computed again."
        return InputError(Problem(f"this feature store cannot be used: {why}", file=str(self.folder), hint=hint))


def _sum(rows: Features) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()
