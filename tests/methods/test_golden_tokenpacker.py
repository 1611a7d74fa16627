"""TokenPacker agrees with the official code's outputs."""

from __future__ import annotations

import pytest
import torch

from tests.methods.golden_cases import Case, parametrize
from vr_eval.methods.base import Shapes
from vr_eval.methods.tokenpacker.module import TokenPacker
from vr_eval.methods.tokenpacker.spec import TokenPackerOptions
from vr_eval.models.official_tensors import our_name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "tokenpacker_case", "TokenPacker")


@torch.no_grad()
def test_golden_tokenpacker(tokenpacker_case: Case) -> None:
    given, inputs = tokenpacker_case.arguments, tokenpacker_case.inputs
    levels = inputs["multi"].shape[-1] // given["embed_dim"]
    shapes = Shapes(
        grid=given["raw_grid"],
        tower_width=given["embed_dim"],
        tower_depth=24,
        select_layer=23,
        decoder_width=given["hidden_size"],
        decoder_depth=1,
        stride=given["scale_factor"],
    )
    packer = TokenPacker(shapes, TokenPackerOptions(levels=tuple(range(levels)), heads=given["num_heads"])).eval()
    # The names go the way of `vr-eval import`.
    named = {str(our_name("tokenpacker", f"model.mm_projector.{k}")): v for k, v in tokenpacker_case.parameters.items()}
    packer.load_state_dict({name.removeprefix("projector."): v for name, v in named.items()}, strict=True)
    outputs = tokenpacker_case.outputs
    (expected,) = outputs.values()
    torch.testing.assert_close(packer.compress(inputs["single"], inputs["multi"]), expected, atol=1e-5, rtol=1e-4)
