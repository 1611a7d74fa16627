"""How a cell is trained. Every value is part of the cell's identity: change one and the cell trains anew."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.config.fields import described


@dataclass(frozen=True)
class Recipe:
    """Two stages: first the method's new parameters alone, then those and the decoder, and the tower if it is to."""

    images: int = described(2500, "training images per suite", minimum=1, maximum=1_000_000)
    questions: int = described(4, "questions per image in one training sequence", minimum=1, maximum=64)
    facts: int = described(12, "facts per image that are listed after them", minimum=0, maximum=64)
    stage1_steps: int = described(160, "steps that train the method's new parameters alone", minimum=0)
    stage2_steps: int = described(160, "steps that train new parameters and decoder", minimum=0)
    batch_size: int = described(16, "images per training step", minimum=1, maximum=65_536)
    lr_projector: float = described(6e-3, "peak learning rate of the method's new parameters", above=0, maximum=1)
    lr_decoder: float = described(3e-4, "peak learning rate of the decoder in stage 2", above=0, maximum=1)
    lr_tower: float = described(
        0.0, "peak learning rate of the vision tower in stage 2; 0: it stays frozen", minimum=0, maximum=1, later=True
    )
    warmup: float = described(0.03, "part of each stage that warms up; cosine decay after it", minimum=0, maximum=1)
    weight_decay: float = described(0.0, "decoupled weight decay (AdamW)", minimum=0, maximum=1)

    @property
    def steps(self) -> int:
        """Training steps of both stages together."""
        return self.stage1_steps + self.stage2_steps
