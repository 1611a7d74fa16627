"""What tests against a reference share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, Qwen2RotaryEmbedding


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2's norm and its rotary embedding compute in float32 whatever they are given; now, in float64."""

    def norm(self: Any, hidden: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(hidden, hidden.shape[-1:], self.weight, self.variance_epsilon)

    def rotary(self: Any, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = (position_ids.unsqueeze(-1) * self.inv_freq.double()).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    monkeypatch.setattr(Qwen2RMSNorm, "forward", norm)
    monkeypatch.setattr(Qwen2RotaryEmbedding, "forward", rotary)
