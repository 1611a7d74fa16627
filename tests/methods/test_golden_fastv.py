"""FastV agrees with the official code: the attention that ranks, the positions that stay, the logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.methods.golden_cases import Case, parametrize
from vr_eval.methods.base import PruningInput, Shapes
from vr_eval.methods.fastv.module import FastV
from vr_eval.methods.fastv.spec import FastVOptions
from vr_eval.models.pruned import pruned


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
    vision = torch.zeros(1, length, dtype=torch.bool)
    vision[:, first : first + count] = True
    recorded: list[PruningInput] = []

    class Recording(FastV):
        def select(self, given: PruningInput) -> torch.Tensor:
            recorded.append(given)
            return super().select(given)

    shapes = Shapes(grid=4, tower_width=1, tower_depth=1, select_layer=1, decoder_width=1, decoder_depth=9, stride=1)
    options = FastVOptions(layer=given["K"], keep_ratio=given["keep"] / count, mode=given["mode"])
    ids = torch.zeros(1, length, dtype=torch.long)
    prompt = torch.ones_like(vision)
    with pruned(model.model, Recording(shapes, options), PruningInput(ids, vision, prompt), None, None) as kept:
        logits = model(inputs_embeds=embeds, use_cache=False).logits
    (seen,) = recorded
    assert seen.attention is not None
    torch.testing.assert_close(
        seen.attention[0, vision[0]], outputs["last_query_image_attention"], atol=1e-5, rtol=1e-4
    )
    assert kept.mask is not None
    if given["mode"] == "drop":
        assert kept.index is not None
        positions = kept.index[0]
    else:
        positions = kept.mask[0].nonzero().flatten()
    stayed = [int(p) for p in positions if vision[0, p]]
    assert stayed == sorted(outputs["kept_image_positions"].tolist())
    torch.testing.assert_close(logits, outputs["logits"], atol=1e-5, rtol=1e-4)
