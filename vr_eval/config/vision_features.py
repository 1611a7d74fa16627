"""What a run keeps of the images' way through the vision tower: how large it gets, where it lies, in how many parts.

Light: plans and the driver of a run ask here; the store itself is `models/feature_store.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from vr_eval.config.cell import Cell
from vr_eval.config.grid import Grid
from vr_eval.config.identity import checkpoint_id
from vr_eval.errors import InputError, Problem
from vr_eval.methods.levels import Level
from vr_eval.methods.options import ProjectorOptions, RefusionOptions
from vr_eval.methods.registry import NONE
from vr_eval.notation import bytes_text
from vr_eval.paths import home
from vr_eval.places import check_writable

LIMIT_BYTES = 20 * 1024**3
"""The most that is kept on disk; and never more than half of what the disk would have free without it."""
OFF = "off"
_CHANNEL_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def features_folder(given: str | Path | None) -> Path | None:
    """Where vision features are kept: `given`, nowhere for ``off``.

    By default ``home()/vision``, or nowhere if that cannot be: an evaluation needs no such folder.

    Raises:
        InputError: `given` cannot be written.
    """
    if given == OFF:
        return None
    if given is None:
        try:
            folder = home() / "vision"
            check_writable(folder, "VR_EVAL_HOME")
        except InputError:
            return None
        return folder
    try:
        folder = Path(given).expanduser().absolute()
    except RuntimeError as error:
        problem = Problem("there is no user with this home folder", file="--features", given=str(given))
        raise InputError(problem) from error
    check_writable(folder, "--features")
    return folder


def levels_read(cell: Cell) -> frozenset[Level]:
    """The tower's hidden states that `cell` reads, as its methods' options say."""
    levels = set(cast(ProjectorOptions, cell.resolved(cell.projector)).reads(cell.spec))
    if cell.refusion == NONE:
        return frozenset(levels)
    refusion = cast(RefusionOptions, cell.resolved(cell.refusion))
    return frozenset(map(refusion.tower_level, levels | set(refusion.reads(cell.spec))))


def image_bytes(cells: Iterable[Cell], dtype: str) -> int:
    """Bytes that `cells` together keep of one image; of an image in tiles, of the one with most of them.

    For each tower and each image that it is given, ``tiles * G*G * D`` channels of every level that a cell reads.
    """
    cells = list(cells)
    read = {cell: levels_read(cell) for cell in cells}
    # The image itself is encoded with all that any cell reads, whoever comes first; what a method makes of it is not.
    of_all = frozenset[Level]().union(*read.values())
    kept: dict[tuple[object, ...], tuple[Cell, frozenset[Level]]] = {}
    for cell in cells:
        tower = checkpoint_id(cell) if cell.trained and cell.recipe.stage2.lr_tower else ""
        seen = cell.image if cell.image == NONE else repr(cell.resolved(cell.image))
        levels = of_all if cell.image == NONE else read[cell]
        _, before = kept.get((tower, seen), (cell, frozenset[Level]()))
        kept[tower, seen] = cell, before | levels
    channels = sum(_tiles(cell) * cell.grid**2 * cell.spec.tower_width * len(all_) for cell, all_ in kept.values())
    return channels * _CHANNEL_BYTES[dtype]


@dataclass(frozen=True)
class Expected:
    """What a run needs to keep every image.

    Attributes:
        image_bytes: Of one image, at most.
        questions: Of one cell; ``None`` if nobody knows before the data is opened.
    """

    image_bytes: int
    questions: int | None

    @property
    def total_bytes(self) -> int | None:
        """Of all images, if every question has one of its own; ``None`` if nobody knows."""
        return None if self.questions is None else self.image_bytes * self.questions

    def __str__(self) -> str:
        each = f"vision features: at most {bytes_text(self.image_bytes)} an image"
        if self.total_bytes is None:
            return each
        return f"{each}, {bytes_text(self.total_bytes)} for {self.questions:,} questions with an image each"

    def kept_in(self, folder: Path | None, limit: int) -> str:
        """A line for a run that keeps them in `folder`, up to `limit` bytes."""
        if folder is None:
            return f"{self}; none are kept on disk"
        return f"{self}; kept up to {bytes_text(limit)} in {folder}"


def expected(grid: Grid, cells: Sequence[Cell], questions: int | None) -> Expected:
    """What evaluating `cells` of `grid` needs, at `questions` a cell."""
    return Expected(image_bytes(cells, grid.loading.dtype), questions)


def ranges_that_fit(total_bytes: int | None, limit: int, blocks: int) -> int:
    """Into how many ranges of so many blocks of questions a run is cut, so that the features of one range are kept.

    One where everything fits, or nobody knows. Otherwise a range takes half of the limit: while the last workers are at
    one range, the first are at the next.
    """
    if total_bytes is None or total_bytes <= limit:
        return 1
    return max(1, min(blocks, math.ceil(total_bytes / max(1, limit // 2))))


def _tiles(cell: Cell) -> int:
    """Tiles of the largest image, base view included."""
    tiling = cell.spec.tiling
    return 1 if tiling is None else tiling.most_tiles(cell.spec.image_px) + 1
