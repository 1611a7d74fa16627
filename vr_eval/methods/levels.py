"""Names of what the vision tower can give for an image: features are asked for and kept by them.

A hidden state of the plain image is its number. Features of anything else have a name of another type, so that no store
and no file can mistake one for the other.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class CropLevel:
    """A hidden state of one high-resolution crop: of the image enlarged `side` times and cut into side x side crops."""

    level: int
    """The hidden state."""
    side: int
    row: int
    column: int

    def __str__(self) -> str:
        return f"{self.level}-crop-{self.row}-{self.column}-of-{self.side}x{self.side}"


@dataclass(frozen=True)
class StackedLevel:
    """A hidden state of the image whose way through the tower the stacks of its side x side crops are added to.

    Before tower layer ``start + j*interval`` stack j, sampled from the crops' hidden state `start`, is added.
    """

    level: int
    """The hidden state."""
    side: int
    start: int
    interval: int

    def __str__(self) -> str:
        return f"{self.level}-stacked-{self.side}x{self.side}-from-{self.start}-by-{self.interval}"


def crop_levels(level: int, side: int) -> tuple[CropLevel, ...]:
    """One hidden state of all side x side crops, row-major."""
    return tuple(CropLevel(level, side, row, column) for row in range(side) for column in range(side))


Level = int | CropLevel | StackedLevel
"""`str` of a level is a file name's part, and no two levels share it."""


def in_order(levels: Collection[Level]) -> tuple[Level, ...]:
    """Each of `levels` once: hidden states of the plain image first, rising; then the others."""
    numbers = sorted({level for level in levels if isinstance(level, int)})
    others = sorted({level for level in levels if not isinstance(level, int)}, key=str)
    return (*numbers, *others)


def split(level: Level) -> tuple[CropLevel | StackedLevel | None, int]:
    """The pass through the tower that gives `level` (as its hidden state 0; None: the plain image) and its number."""
    return (None, level) if isinstance(level, int) else (replace(level, level=0), level.level)
