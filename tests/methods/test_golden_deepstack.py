"""DeepStack agrees with the official code's stacks and logits, through the hooks that every model here uses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.methods.golden_cases import Case, parametrize
from vr_eval.methods.base import RefusionInput, Shapes, VisionFeatures, VisionLayout
from vr_eval.methods.deepstack.module import DeepStack, crop_stacks, stack_layers
from vr_eval.methods.deepstack.spec import DeepStackOptions
from vr_eval.models.official_tensors import our_name
from vr_eval.models.seams import Injection, injected


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "deepstack_case", "DeepStack")


def llama(case: Case) -> LlamaForCausalLM:
    given = dict(case.meta["llama"])
    # transformers 5 keeps the base of the rotary embedding in a mapping.
    rope = {"rope_type": "default", "rope_theta": given.pop("rope_theta", 10000.0)}
    model = LlamaForCausalLM(LlamaConfig(**given, rope_parameters=rope, max_position_embeddings=4096)).eval()
    named = {str(our_name("deepstack", name)): value for name, value in case.parameters.items()}
    model.load_state_dict({name.removeprefix("language_model."): v for name, v in named.items()}, strict=True)
    return model


def shapes_of(case: Case) -> tuple[Shapes, dict[str, Any], int, int]:
    """Sizes, DeepStack's settings, and the crops' rows and columns."""
    given = case.meta["deepstack"]
    grid = given["grid"]
    columns, rows = grid if isinstance(grid, list) else (grid, grid)  # official grids are (width, height)
    width = case.meta["llama"]["hidden_size"]
    shapes = Shapes(
        grid=given["image_side"],
        tower_width=width,
        tower_depth=1,
        select_layer=0,
        decoder_width=width,
        decoder_depth=case.meta["llama"]["num_hidden_layers"],
        stride=1,
    )
    return shapes, given, rows, columns


@torch.no_grad()
def test_golden_deepstack(deepstack_case: Case) -> None:
    shapes, given, rows, columns = shapes_of(deepstack_case)
    inputs, outputs = deepstack_case.inputs, deepstack_case.outputs
    view, *crops = inputs["projected_crops"]
    stacks = crop_stacks(torch.stack(crops), rows, columns, len(outputs["stack"]))
    assert torch.equal(stacks, outputs["stack"])

    method = DeepStack(shapes, DeepStackOptions(start=given["start_layer"], interval=given["interval"]))
    # Stacks of projected crops instead of the grid's; the official code passes over those beyond the last layer.
    layers = stack_layers(len(stacks), given["start_layer"], given["interval"])
    method.layers = tuple(layer for layer in layers if layer < shapes.decoder_depth - 1)
    before, tokens = given["prefix_tokens"], given["image_side"] ** 2
    text = inputs["text_embeds"][0]
    embedded = torch.cat([text[:before], view, text[before:]]).unsqueeze(0)
    column = torch.arange(before, before + tokens)
    layout = VisionLayout(torch.zeros_like(column), column, 1, tokens)
    nothing = VisionFeatures(torch.empty(1, tokens, 0, shapes.tower_width), ())
    handed = RefusionInput(nothing, layout, torch.zeros(embedded.shape[:2], dtype=torch.bool))
    model = llama(deepstack_case)
    with injected(model.model.layers, method, Injection(replace(handed, prepared=stacks.unsqueeze(1)))):
        logits = model(inputs_embeds=embedded).logits
    torch.testing.assert_close(logits, outputs["logits"], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_golden_stacks_of_the_method_itself(deepstack_case: Case) -> None:
    shapes, given, rows, columns = shapes_of(deepstack_case)
    crops = deepstack_case.inputs["projected_crops"][1:]
    if rows != columns:
        pytest.skip("here an image has as many crops across as down")
    options = DeepStackOptions(given["start_layer"], given["interval"], stacks="crops", crops=len(crops))
    method = DeepStack(shapes, options)
    method.mlp = torch.nn.Identity()  # the case's crops are projected already
    features = VisionFeatures(crops.unsqueeze(0).transpose(1, 2), method.levels)
    assert torch.equal(method.prepare(features).squeeze(1), deepstack_case.outputs["stack"])
    assert method.layers == tuple(given["start_layer"] - 1 + j * given["interval"] for j in range(len(crops)))
