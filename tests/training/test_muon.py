"""Muon in float32 takes the steps of torch's Muon, which computes them in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch.optim import Muon

from vr_eval.training.muon import Float32Muon


@pytest.mark.parametrize("shape", [(64, 128), (128, 64), (128, 128)])
def test_steps_are_those_of_torchs_muon(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    alike = {"lr": 0.1, "weight_decay": 0.1}
    steppers = (Float32Muon([ours], **alike), Muon([theirs], **alike, adjust_lr_fn="match_rms_adamw"))
    for _ in range(3):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        for stepper in steppers:
            stepper.step()
    assert (theirs - start).abs().mean() > 0.01
    # bfloat16 rounds to three digits.
    torch.testing.assert_close(ours - start, theirs - start, atol=5e-3, rtol=0)
