"""A training sequence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Encoded:
    """One sample: token ids, and the same length of labels (-100 where not supervised)."""

    input_ids: list[int]
    labels: list[int]
