"""How images are cut into tiles: a description per scheme, by name. Never imports torch.

What a scheme does to images and tokens is one class beside its description's name in vr_eval/models/tiling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from vr_eval.catalog.fields import described

_LONGEST_LINE = 9
"""TokenPacker-HD cuts an image into a single row or column of so many tiles at most (official code)."""

_ALWAYS_WRITTEN: Mapping[str, Any] = MappingProxyType({"limit": None, "lone": False})
"""Fields of `AnyRes` that are written of every tiling: checkpoints and identities from before a scheme had fields of
its own have them."""


@dataclass(frozen=True)
class Tiling:
    """Images of any shape as a base view and tiles of the tower's size: what all schemes have.

    A field of a scheme is a key of ``backbone.tiling`` in a grid file, with its check and documentation.

    Attributes:
        pinpoints: The resolutions, ``(height, width)`` in pixels; both are multiples of the tower's size.
    """

    scheme: ClassVar[str]
    """Its name, in `TILINGS` and wherever a tiling is written."""

    pinpoints: tuple[tuple[int, int], ...] = described(
        (),
        "resolutions, each [height, width] in pixels, multiples of image_px",
        minimum=1,
        maximum=1_000_000,
        example="pinpoints: [[336, 672], [672, 336], [672, 672]]",
        default_note="those of `from`, else the scheme's own; anyres has none",
    )

    @classmethod
    def of(cls, image_px: int) -> Tiling:
        """With the scheme's own resolutions for a tower of ``image_px`` pixels a side; none where it has no such."""
        return cls()

    def most_tiles(self, image_px: int) -> int:
        """Tiles of the largest resolution for a tower of ``image_px`` pixels a side, the base view not counted."""
        return max(self._tiles(image_px))

    def fewest_tiles(self, image_px: int) -> int:
        """Tiles of the smallest resolution, the base view not counted."""
        return min(self._tiles(image_px))

    @property
    def note(self) -> str:
        """What else than the number of tiles bounds an image's tokens, in words; empty for nothing."""
        return ""

    @property
    def row(self) -> dict[str, Any]:
        """All of it in plain values, as config.json and grid files hold it; `read_tiling` reads it."""
        row: dict[str, Any] = {"pinpoints": [list(size) for size in self.pinpoints], **_ALWAYS_WRITTEN}
        own = [field.name for field in dataclasses.fields(self) if field.name != "pinpoints"]
        return row | {name: getattr(self, name) for name in own} | {"scheme": self.scheme}

    def _tiles(self, image_px: int) -> list[int]:
        return [(height // image_px) * (width // image_px) for height, width in self.pinpoints]


@dataclass(frozen=True)
class AnyRes(Tiling):
    """LLaVA-NeXT's: an image is fitted, with its aspect, into the best of some resolutions.

    The tokens of the padding are dropped, a learned token ends every row, and the base view comes first.

    Attributes:
        limit: Tokens of the tiles, in tiles' worth, above which they are resized by bilinear interpolation
            (LLaVA-OneVision's anyres_max_9); ``None`` for no limit.
        lone: Only an image that is alone in its sample is tiled; one of several is shown as its base view, with one
            newline token after it (LLaVA-OneVision).
    """

    scheme: ClassVar[str] = "anyres"

    limit: int | None = described(
        None, "tiles' worth of tokens above which they are resized", minimum=1, maximum=10_000, default_note="no limit"
    )
    lone: bool = described(False, "whether only an image that is alone in its sample is tiled")

    @property
    def note(self) -> str:
        return "" if self.limit is None else f"tokens of the tiles limited to {self.limit} tiles'"


@dataclass(frozen=True)
class InternVLTiles(Tiling):
    """InternVL 1.5's dynamic resolution: an image is stretched to the resolution of the closest aspect.

    Nothing stands between the tiles, and the base view comes last.
    """

    scheme: ClassVar[str] = "internvl"

    @classmethod
    def of(cls, image_px: int, most: int = 12, least: int = 1) -> InternVLTiles:
        """Every grid of `least` to `most` tiles of ``image_px`` pixels a side (12: InternVL's default)."""
        return cls(_pinpoints([grid for grid in _grids(most) if grid[0] * grid[1] >= least], image_px))


@dataclass(frozen=True)
class TokenPackerHD(Tiling):
    """TokenPacker-HD's: an image is fitted, with its aspect, into the resolution that it fills best.

    The decoder's own tokens for a comma and a line break separate tiles and end rows, and the base view comes last.
    """

    scheme: ClassVar[str] = "tokenpacker_hd"

    @classmethod
    def of(cls, image_px: int, most: int = 9) -> TokenPackerHD:
        """Every grid of up to `most` tiles, single lines of up to 9 (official: 9, 16 or 25)."""
        fitting = [grid for grid in _grids(most) if min(grid) > 1 or max(grid) <= _LONGEST_LINE]
        return cls(_pinpoints(fitting, image_px))


TILINGS: Mapping[str, type[Tiling]] = MappingProxyType(
    {kind.scheme: kind for kind in (AnyRes, InternVLTiles, TokenPackerHD)}
)
"""The descriptions by the name of their scheme."""


def read_tiling(row: Mapping[str, Any]) -> Tiling:
    """The tiling that `Tiling.row` wrote; without a name of its scheme it is `AnyRes`.

    Raises:
        KeyError: No scheme has this name.
        TypeError: It says something that its scheme has no field for.
    """
    kind = TILINGS[row.get("scheme", AnyRes.scheme)]
    names = {field.name for field in dataclasses.fields(kind)}
    own = {name: value for name, value in row.items() if name in names or (name, value) not in _ALWAYS_WRITTEN.items()}
    own.pop("scheme", None)
    return kind(**{**own, "pinpoints": tuple((int(height), int(width)) for height, width in row["pinpoints"])})


def _grids(most: int) -> list[tuple[int, int]]:
    """Every ``(rows, columns)`` of up to `most` tiles."""
    return [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)]


def _pinpoints(grids: list[tuple[int, int]], image_px: int) -> tuple[tuple[int, int], ...]:
    """Resolutions of grids ``(rows, columns)``, those of fewer tiles first."""
    ordered = sorted(grids, key=lambda grid: grid[0] * grid[1])
    return tuple((rows * image_px, columns * image_px) for rows, columns in ordered)
