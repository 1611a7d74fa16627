"""Room on the disks that downloads go to."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from vr_eval.doctor.needs import Need
from vr_eval.places import data_cache, nearest_existing


@dataclass(frozen=True)
class Space:
    """One disk.

    Attributes:
        folder: What is written to it; the first of several folders on the same disk.
        wanted: Bytes that downloads take there.
        free: Bytes that are left.
    """

    folder: Path
    wanted: int
    free: int


def space_needed(sizes: Mapping[Need, int | None]) -> list[Space]:
    """What downloads of these sizes (None: unknown, counted as nothing) take on each disk that they go to.

    Everything is downloaded into the cache of models; data are then unpacked into theirs and take about as much again
    (ours: an estimate, not a measurement).
    """
    downloaded = sum(size or 0 for size in sizes.values())
    unpacked = sum(size or 0 for need, size in sizes.items() if need.kind != "weights")
    disks: dict[int, Space] = {}
    for folder, wanted in ((Path(constants.HF_HUB_CACHE), downloaded), (data_cache(), unpacked)):
        place = nearest_existing(folder)
        disk = place.stat().st_dev
        before = disks.get(disk, Space(place, 0, shutil.disk_usage(place).free))
        disks[disk] = Space(before.folder, before.wanted + wanted, before.free)
    return list(disks.values())
