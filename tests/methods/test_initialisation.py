"""Parameters start where the official code, or our definition, has them start."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vr_eval.methods.base import Shapes
from vr_eval.methods.registry import METHODS, projector_options
from vr_eval.models.methods import build_method

SHAPES = Shapes(grid=12, tower_width=64, tower_depth=24, select_layer=23, decoder_width=96, decoder_depth=24, stride=2)
ZERO = 0.0
ONES = "ones"


def xavier(weight: Tensor) -> float:
    """The standard deviation of Xavier's uniform initialisation."""
    return math.sqrt(2 / sum(weight.shape))


def default(module: nn.Module) -> float:
    """That of PyTorch's own for the weights and biases of Linear and Conv2d."""
    weight: Any = module.weight
    return 1 / math.sqrt(3 * weight[0].numel())


@pytest.fixture(autouse=True)
def uninitialised_is_not_a_number() -> Iterator[None]:
    """Or what was there in memory before might be what the last test put there."""
    torch.use_deterministic_algorithms(True)  # then `torch.empty` is filled with NaN
    yield
    torch.use_deterministic_algorithms(False)


def made(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_method(name, SHAPES, METHODS[name].options(**options).resolve(SHAPES))


def spread(values: Tensor) -> float:
    """Root mean square: the standard deviation of what has a mean of zero."""
    return float(values.detach().double().square().mean().sqrt())


def assert_linear(module: nn.Module, apart: dict[str, float]) -> None:
    """Each Linear and Conv2d of `module` as PyTorch starts it, each norm as the identity, `apart` as they say."""
    for name, part in module.named_modules():
        for kind in ("weight", "bias"):
            values, full = getattr(part, kind, None), f"{name}.{kind}"
            if values is None or full in apart:
                continue
            if isinstance(part, nn.Linear | nn.Conv2d):
                assert spread(values) == pytest.approx(default(part), rel=0.25), full
            elif isinstance(part, nn.LayerNorm | nn.RMSNorm):
                assert torch.equal(values, torch.full_like(values, kind == "weight")), full
    named = dict(module.named_parameters())
    for name, expected in apart.items():
        assert spread(named[name]) == pytest.approx(expected, rel=0.25), name


def test_tokenpacker_starts_as_the_official_one() -> None:
    packer = made("tokenpacker", heads=4)
    names = [name for name, part in packer.named_modules() if isinstance(part, nn.Linear)]
    apart = {f"{name}.weight": 0.02 for name in names}
    apart |= {f"{name}.bias": ZERO for name in names if f"{name}.bias" in dict(packer.named_parameters())}
    assert len(names) == 8
    attention = packer.clip_attn.in_proj_weight
    assert_linear(packer, {**apart, "clip_attn.in_proj_weight": xavier(attention), "clip_attn.in_proj_bias": ZERO})
    assert float(attention.detach().abs().max()) <= math.sqrt(6 / sum(attention.shape))  # uniform


def test_the_resampler_starts_as_the_official_one() -> None:
    resampler = made("resampler", heads=4)
    apart = {"query": 0.02, "kv_proj.weight": 0.02, "proj.weight": 96**-0.5}
    apart |= {"attn.in_proj_weight": xavier(resampler.attn.in_proj_weight), "attn.in_proj_bias": ZERO}
    assert_linear(resampler, {**apart, "attn.out_proj.weight": 0.02, "attn.out_proj.bias": ZERO})
    assert resampler.kv_proj.bias is None
    assert resampler.proj.bias is None


@pytest.mark.parametrize("name", ["mlp", "avg_pool", "pixel_shuffle", "ldpv2"])
def test_plain_projectors_start_as_pytorch_starts_them(name: str) -> None:
    assert_linear(made(name), {})


def test_sva_starts_as_the_official_one() -> None:
    connector = made("sva_connector", heads=4, depth=2)
    places = {f"vision_sampler_0.layers.{i}.pos_embed_0": 1.0 for i in range(2)}
    assert_linear(connector, places)
    assert spread(connector.vision_query) == pytest.approx(64**-0.5, rel=0.3)
    inside = made("sva", heads=4)
    assert_linear(inside, {f"vision_sampler_layers.{i}.layers.0.pos_embed_0": 1.0 for i in range(len(inside.layers))})


@pytest.mark.parametrize("zero_init", [True, False])
def test_vision_remember_starts_at_the_base_model_or_nowhere_in_particular(zero_init: bool) -> None:
    module = made("vision_remember", ffn=True, zero_init=zero_init)
    apart = {f"blocks.{i}.cross.cell": 0.02 for i in range(4)}
    if zero_init:
        parts = ("cross", "self_attention", "ffn")
        apart |= {f"blocks.{i}.{part}.out.weight": ZERO for i in range(4) for part in parts}
    assert_linear(module, apart)


def test_the_c_abstractor_starts_without_any_place_apart() -> None:
    assert spread(made("c_abstractor").pos_emb) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.seam == "projector"])
def test_a_projector_that_says_so_has_an_mlp_that_deepstack_can_share(name: str) -> None:
    projector = made(name)
    shared = projector.patch_mlp()
    assert (shared is not None) == projector_options(name).patch_mlp
    if shared is not None:
        assert shared is projector.mlp
        assert shared(torch.zeros(1, 64)).shape == (1, 96)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.trainable])
def test_a_checkpoint_holds_what_is_learned_and_nothing_that_is_computed(name: str) -> None:
    module = made(name)
    assert set(module.state_dict()) == {key for key, _ in module.named_parameters()}
