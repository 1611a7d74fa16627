"""LDPv2, the resampler and the C-Abstractor: their parts against formulas written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from vr_eval.methods.base import Shapes, VisionFeatures
from vr_eval.methods.c_abstractor import CAbstractor
from vr_eval.methods.ldpv2 import LDPv2
from vr_eval.methods.options import CAbstractorOptions, LDPv2Options, ResamplerOptions
from vr_eval.methods.resampler import Resampler, resized_positions, sine_cosine_grid


def shapes(stride: int = 2, tower_width: int = 16, decoder_width: int = 32) -> Shapes:
    return Shapes(
        grid=6,
        tower_width=tower_width,
        tower_depth=4,
        select_layer=3,
        decoder_width=decoder_width,
        decoder_depth=4,
        stride=stride,
    )


def features(tower_width: int = 16) -> VisionFeatures:
    maps = torch.randn(2, 36, 1, tower_width, generator=torch.Generator().manual_seed(0))
    return VisionFeatures(maps, (3,))


@torch.no_grad()
def test_ldpv2_pools_projected_patches_and_adds_a_depthwise_convolution() -> None:
    torch.manual_seed(0)
    projector = LDPv2(shapes(), LDPv2Options())
    cells = projector.mlp(features().level(3))[1].view(6, 6, 32)
    pooled = torch.zeros(5, 5, 32)  # 3 x 3 with a border of zeros
    for y in range(3):
        for x in range(3):
            pooled[1 + y, 1 + x] = cells[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((0, 1))
    weight, bias = projector.peg.weight[:, 0], projector.peg.bias
    got = projector(features())[1]
    for y in range(3):
        for x in range(3):
            near = pooled[y : y + 3, x : x + 3]
            expected = pooled[1 + y, 1 + x] + (near * weight.permute(1, 2, 0)).sum((0, 1)) + bias
            torch.testing.assert_close(got[3 * y + x], expected, atol=1e-5, rtol=1e-5)


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


@pytest.mark.parametrize("tower_width", [16, 32])
@torch.no_grad()
def test_the_resampler_equals_the_formula_written_out(tower_width: int) -> None:
    torch.manual_seed(0)
    given = shapes(tower_width=tower_width)
    projector = Resampler(given, ResamplerOptions(heads=4))
    for parameter in projector.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    assert isinstance(projector.kv_proj, nn.Identity) == (tower_width == 32)  # as official
    cells = features(tower_width).level(3)[0]
    value = projector.ln_kv(projector.kv_proj(cells))
    key = value + resized_positions(sine_cosine_grid(3, 32), 6)
    query = projector.ln_q(projector.query) + sine_cosine_grid(3, 32)
    attention = projector.attn
    wq, wk, wv = attention.in_proj_weight.chunk(3)
    bq, bk, bv = attention.in_proj_bias.chunk(3)
    q, k, v = query @ wq.T + bq, key @ wk.T + bk, value @ wv.T + bv
    seen = torch.cat(
        [
            torch.softmax(a @ b.T / math.sqrt(8), 1) @ c
            for a, b, c in zip(*(x.split(8, 1) for x in (q, k, v)), strict=True)
        ],
        dim=1,
    )
    expected = projector.proj(projector.ln_post(attention.out_proj(seen)))
    got = projector(features(tower_width))
    assert got.shape == (2, 9, 32)
    torch.testing.assert_close(got[0], expected, atol=1e-5, rtol=1e-5)


def test_the_resampler_has_a_head_per_128_channels_and_at_least_8() -> None:
    assert ResamplerOptions().resolve(shapes(decoder_width=4096)).heads == 32
    assert ResamplerOptions().resolve(shapes(decoder_width=128)).heads == 8
    assert [fault.option for fault in ResamplerOptions(heads=5).faults(shapes())] == ["heads"]
    (fault,) = ResamplerOptions().faults(shapes(decoder_width=30))
    assert "30 has no 2D sine-cosine positions" in fault.message


@pytest.mark.parametrize(
    ("options", "depth", "mlp", "width"), [({}, 3, 3, 16), ({"depth": 1, "mlp_depth": 3, "width": 24}, 1, 5, 24)]
)
@torch.no_grad()
def test_the_c_abstractor_pools_between_two_stages_of_blocks(
    options: dict[str, Any], depth: int, mlp: int, width: int
) -> None:
    torch.manual_seed(0)
    projector = CAbstractor(shapes(), CAbstractorOptions(**options))
    for stage in (projector.before, projector.after):
        blocks = list(stage.children())
        assert len(blocks) == depth
        assert all(block.se.fc1.out_channels >= 1 for block in blocks)
        assert all(block.conv2.conv.groups == width for block in blocks)  # group size 1
    assert len(projector.readout) == mlp
    assert all(isinstance(layer, nn.SiLU) for layer in projector.readout[1::2])
    cells = (features().level(3) + projector.pos_emb).transpose(1, 2).view(2, 16, 6, 6)
    wide = projector.before(cells)
    assert wide.shape == (2, width, 6, 6)
    pooled = wide.view(2, width, 3, 2, 3, 2).mean((3, 5))
    expected = projector.readout(projector.after(pooled).flatten(2).transpose(1, 2))
    torch.testing.assert_close(projector(features()), expected, atol=1e-5, rtol=1e-5)
