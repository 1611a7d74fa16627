"""Processes that train together, as torchrun and accelerate start them, and how work is spread over them. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass


def processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the one of them that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Spread:
    """What a training needs in memory and how fast it goes; what it learns stays the same.

    Attributes:
        device_batch: Samples that go through a device at once, gradients being accumulated over the rest of a batch;
            ``None`` for its whole share of the batch.
        fsdp: Weights, gradients and the optimizer's state are spread over the processes too.
        checkpoint_activations: Activations are computed again in the backward pass instead of kept.
    """

    device_batch: int | None = None
    fsdp: bool = False
    checkpoint_activations: bool = False

    @property
    def sharded(self) -> bool:
        """Whether weights are spread, by this or by ``accelerate launch --use_fsdp``."""
        return self.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


ALONE = Spread()
