"""Hidden states of one image as a safetensors file with checksums: what is read is what was written, or refused.

Read with one open file, and not through a memory map: `safetensors.safe_open` opens a file twice, between which another
process may replace it, and under a map a sector that cannot be read ends the process. What is read lies in the system's
cache either way, once for all workers of a machine, and only the levels that are wanted are read.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save
from torch import Tensor

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""As safetensors names them."""


@dataclass(frozen=True)
class Name:
    """What the features are of: the source that made them, and the image."""

    source: str
    image: str


def write_bytes(name: Name, hidden: Mapping[str, Tensor]) -> bytes:
    """The file of the hidden states ``(tiles, G*G, D)`` by level."""
    tensors = {level: tensor.contiguous() for level, tensor in hidden.items()}
    sums = {level: str(_sum(level, tensor)) for level, tensor in tensors.items()}
    return save(tensors, {**sums, "source": name.source, "image": name.image})


def read_levels(path: Path, name: Name, levels: Collection[str] | None = None) -> dict[str, Tensor] | None:
    """Hidden states by level, all of them by default; None where the file lacks one that is asked for.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: it is damaged, or of something else.
    """
    with path.open("rb") as file:
        try:
            sums, entries, start = _header(file)
            if (sums.pop("source"), sums.pop("image")) != (name.source, name.image):
                raise ValueError("it holds features of something else")
            if not set(levels or ()) <= set(sums):
                return None
            return {level: _level(file, level, entries[level], start, sums[level]) for level in levels or sums}
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError("its header is broken") from error


def _header(file: BinaryIO) -> tuple[dict[str, str], dict[str, Any], int]:
    """What the file says of itself; type, shape and place of each tensor; where the places count from."""
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= os.fstat(file.fileno()).st_size:
        raise ValueError("its header is cut short")
    entries = json.loads(file.read(length))
    return dict(entries.pop("__metadata__")), entries, 8 + length


def _level(file: BinaryIO, level: str, entry: Mapping[str, Any], start: int, expected: str) -> Tensor:
    first, end = entry["data_offsets"]
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    if end - first != prod(shape) * dtype.itemsize or start + end > os.fstat(file.fileno()).st_size:
        raise ValueError("it is cut short")
    content = bytearray(end - first)
    file.seek(start + first)
    if file.readinto(content) != len(content):  # type: ignore[attr-defined]  # typeshed's BinaryIO lacks it
        raise ValueError("it is cut short")
    tensor = torch.frombuffer(content, dtype=dtype).view(shape)
    if str(_sum(level, tensor)) != expected:
        raise ValueError(f"level {level} does not hold what was written")
    return tensor


def _sum(level: str, tensor: Tensor) -> int:
    """CRC-32 of a level's bytes, and of how they are to be read.

    Against disks, not against people: it takes half the time of SHA-256 where a processor helps with that.
    """
    read_as = zlib.crc32(f"{level} {tensor.dtype} {tuple(tensor.shape)}".encode())
    return zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, read_as)
