"""Sizes for people."""

from __future__ import annotations

UNITS = ("B", "kB", "MB", "GB", "TB")


def bytes_text(count: int | None) -> str:
    """``count`` bytes in decimal units as disks are sold: ``512 B``, ``1.3 GB``; ``size unknown`` for None."""
    if count is None:
        return "size unknown"
    value, unit = float(count), 0
    while value >= 999.5 and unit + 1 < len(UNITS):
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {UNITS[unit]}" if unit == 0 or value >= 99.5 else f"{value:.1f} {UNITS[unit]}"
