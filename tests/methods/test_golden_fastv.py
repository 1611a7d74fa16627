"""FastV agrees with the official code: the attention that ranks, the positions that stay, the logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.methods.golden_cases import Case, parametrize
from vr_eval.layers.rows import Rows
from vr_eval.methods.base import Shapes
from vr_eval.methods.fastv.module import FastV
from vr_eval.methods.fastv.spec import FastVOptions
from vr_eval.methods.reduction import Sample
from vr_eval.models.reduced import Prompt, reduced


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "fastv_case", "FastV")


def reference_llama(case: Case) -> LlamaForCausalLM:
    """A Llama of transformers with the case's sizes and weights."""
    given: dict[str, Any] = dict(case.meta["llama"])
    theta = given.pop("rope_theta", 10000.0)
    config = LlamaConfig(**given, rope_parameters={"rope_type": "default", "rope_theta": theta})
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(case.parameters, strict=True)
    return model


@torch.no_grad()
def test_golden_fastv(fastv_case: Case) -> None:
    given, outputs = fastv_case.meta["fastv"], fastv_case.outputs
    model = reference_llama(fastv_case)
    embeds = fastv_case.inputs["inputs_embeds"]
    length, first, count = embeds.shape[1], given["system_tokens"], given["image_tokens"]
    image = torch.full((1, length), -1)
    image[:, first : first + count] = 0
    recorded: list[torch.Tensor] = []

    class Recording(FastV):
        def choose(self, step: int, sample: Sample) -> Rows:
            assert sample.asked is not None
            recorded.append(sample.asked.received(sample.last())[sample.vision])
            return super().choose(step, sample)

    shapes = Shapes(grid=4, tower_width=1, tower_depth=1, select_layer=1, decoder_width=1, decoder_depth=9, stride=1)
    options = FastVOptions(layer=given["K"], keep_ratio=given["keep"] / count, mode=given["mode"])
    prompt = Prompt(torch.zeros_like(image), torch.ones_like(image, dtype=torch.bool), image)
    with reduced(model.model, Recording(shapes, options), prompt, None) as left:
        logits = model(inputs_embeds=embeds, use_cache=False).logits
    (seen,) = recorded
    torch.testing.assert_close(seen, outputs["last_query_image_attention"], atol=1e-5, rtol=1e-4)
    (stage,) = left.stages
    if given["mode"] == "drop":
        assert left.index is not None
        positions = left.index[0]
    else:
        positions = stage.seen[0].nonzero().flatten()
    stayed = [int(p) for p in positions if image[0, p] >= 0]
    assert stayed == sorted(outputs["kept_image_positions"].tolist())
    torch.testing.assert_close(logits, outputs["logits"], atol=1e-5, rtol=1e-4)
