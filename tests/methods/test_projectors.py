"""The resampler's positions and heads; what all projectors compute is in test_reference_projectors.py."""

from __future__ import annotations

import math

import pytest
import torch

from vr_eval.methods.base import Shapes
from vr_eval.methods.resampler.module import resized_positions, sine_cosine_grid
from vr_eval.methods.resampler.spec import ResamplerOptions


def shapes(decoder_width: int = 32) -> Shapes:
    return Shapes(
        grid=6,
        tower_width=16,
        tower_depth=4,
        select_layer=3,
        decoder_width=decoder_width,
        decoder_depth=4,
        stride=2,
    )


def test_sine_cosine_positions_hold_the_column_first_and_sines_before_cosines() -> None:
    table = sine_cosine_grid(5, 16)
    for y in range(5):
        for x in range(5):
            for i in range(4):
                angle = 10000 ** (-i / 4)
                expected = [math.sin(x * angle), math.cos(x * angle), math.sin(y * angle), math.cos(y * angle)]
                got = table[5 * y + x].view(4, 4)[:, i].tolist()
                assert got == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="multiple of 4, not 6"):
        sine_cosine_grid(5, 6)


def test_positions_of_the_same_grid_stay_as_they_are() -> None:
    table = sine_cosine_grid(4, 8)
    assert torch.equal(resized_positions(table, 4), table)
    assert resized_positions(table, 12).shape == (144, 8)


def test_the_resampler_has_a_head_per_128_channels_and_at_least_8() -> None:
    assert ResamplerOptions().resolve(shapes(decoder_width=4096)).heads == 32
    assert ResamplerOptions().resolve(shapes(decoder_width=128)).heads == 8
    assert [fault.option for fault in ResamplerOptions(heads=5).faults(shapes())] == ["heads"]
    (fault,) = ResamplerOptions().faults(shapes(decoder_width=30))
    assert "30 has no 2D sine-cosine positions" in fault.message
