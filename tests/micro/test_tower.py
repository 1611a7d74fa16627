"""Rescaling the tower's residual stream changes the size of its features and nothing else."""

from __future__ import annotations

import torch
from transformers import CLIPVisionModel

from vr_eval.micro.build.tower import tower_config, unit_features


@torch.no_grad()
def test_features_get_a_root_mean_square_of_one_and_keep_their_direction() -> None:
    torch.manual_seed(0)
    tower = CLIPVisionModel(tower_config()).eval()
    tower.pre_layrnorm.weight.mul_(7)  # as large as pre-training makes them
    pixels = torch.randn(2, 3, 192, 192)
    before = tower(pixels, output_hidden_states=True).hidden_states
    factor = unit_features(tower, pixels)
    after = tower(pixels, output_hidden_states=True).hidden_states
    assert abs(float(after[-1].pow(2).mean().sqrt()) - 1) < 1e-3
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, factor * old, atol=2e-3, rtol=1e-3)
