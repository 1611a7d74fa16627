"""What a cell costs, as it is measured (`measure`) and recorded."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of the training version; `method` is `projector` and `refusion`."""

    total: int
    projector: int
    refusion: int
    method: int


@dataclass(frozen=True)
class PrefillFlops:
    """Operations from the pixels of one image to the logits of the first answer token."""

    gflops: float
    """All of it: tower, projector, refusion, decoder, and what pruning saves and spends."""
    tower_gflops: float
    """The vision tower's part, over every image and crop that the methods read."""
    vision_tokens: int
    """Tokens of the image that enter the decoder, newlines between rows of tiles included."""
    text_tokens: int
    """Text tokens of the prompt."""

    def rounded(self) -> PrefillFlops:
        """As a cell's record holds it: to a thousand operations."""
        return replace(self, gflops=round(self.gflops, 6), tower_gflops=round(self.tower_gflops, 6))
