"""The aggregator of SVA agrees with the official code's outputs, before and inside the decoder."""

from __future__ import annotations

import pytest
import torch

from tests.methods.golden_cases import Case, parametrize
from vr_eval.methods.sva_connector.layers import VisionTokenSampler
from vr_eval.models.official_tensors import our_name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "sva_case", "VisionTokenSampler")


@torch.no_grad()
def test_golden_sva(sva_case: Case) -> None:
    given, inputs = sva_case.arguments, sva_case.inputs
    if given.get("layer_type", "joint") != "joint":
        pytest.skip("only the joint layers, those of every published model, are implemented")
    sampler = VisionTokenSampler(
        given["q_dim"],
        given["context_dim"],
        given["kv_dim_list"],
        given["kv_size_list"],
        given["vision_hidden_size"],
        given.get("num_of_layers", 1),
    ).eval()
    # The names go the way of `vr-eval import`.
    prefix = "vision_sampler_0."
    named = {str(our_name("cambrian", f"model.{prefix}{k}")): v for k, v in sva_case.parameters.items()}
    sampler.load_state_dict({name.removeprefix(f"projector.{prefix}"): v for name, v in named.items()}, strict=True)
    towers = [inputs[f"kv{i}"] for i in range(len(given["kv_dim_list"]))]
    masks = sva_case.masks
    seen = None if masks is None else [mask.flatten(1) for mask in masks]
    got = sampler(inputs["queries"], inputs["context"], towers, seen)
    torch.testing.assert_close(got, sva_case.outputs["output"], atol=1e-5, rtol=1e-4)
