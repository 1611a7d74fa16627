"""Any CLIP or SigLIP tower with any Llama, Qwen2, Qwen3 or Phi decoder: the same in any batch, cached or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)

from vr_eval.models.config import LVLMConfig
from vr_eval.models.lvlm import LVLM
from vr_eval.testing.tiny import IMAGE, PAD, SIDE, batch, pixels, prompt

TOWERS: dict[str, type[PreTrainedConfig]] = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}
DECODERS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 12}),
    "phi": (PhiConfig, {"partial_rotary_factor": 0.5}),
    "phi3": (Phi3Config, {}),
}
PAIRS = [*(("clip", name) for name in DECODERS), *(("siglip", name) for name in ("llama", "qwen2"))]
METHODS = [("avg_pool", 4, "vision_remember", "none"), ("mlp", 1, "none", "fastv")]


def tower(name: str) -> PreTrainedConfig:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    return TOWERS[name](**sizes, image_size=SIDE, patch_size=4)


def decoder(name: str) -> PreTrainedConfig:
    family, own = DECODERS[name]
    return family(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD,
        **own,
    )


@pytest.fixture(
    params=[(*pair, *methods) for pair in PAIRS for methods in METHODS], ids=lambda p: "-".join(map(str, p))
)
def model(request: pytest.FixtureRequest) -> LVLM:
    vision, text, projector, ratio, refusion, pruning = request.param
    torch.manual_seed(0)
    config = LVLMConfig(
        tower(vision),
        decoder(text),
        projector=projector,
        ratio=ratio,
        refusion=refusion,
        pruning=pruning,
        select_layer=-2,
        image_token_id=IMAGE,
    )
    built = LVLM(config).eval()
    built.generation_config.pad_token_id = PAD
    with torch.no_grad():
        for part in (built.projector, built.refusion):
            for parameter in part.parameters() if part is not None else ():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return built


def rows_of(model: LVLM) -> tuple[list[list[int]], list[int]]:
    rows = [prompt(model, 13, "image", 15), prompt(model, 20, "image", 21, "image", 22), prompt(model, 24, 25)]
    return rows, [1, 2, 0]


@torch.no_grad()
def test_a_batch_equals_its_samples_and_a_cache_changes_nothing(model: LVLM) -> None:
    rows, counts = rows_of(model)
    ids, mask = batch(rows, "left")
    images = pixels(sum(counts))
    how: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "output_logits": True}
    how["return_dict_in_generate"] = True
    together = model.generate(ids, attention_mask=mask, pixel_values=images, **how)
    without = model.generate(ids, attention_mask=mask, pixel_values=images, use_cache=False, **how)
    assert torch.equal(together.sequences, without.sequences)
    start = 0
    for place, (row, count) in enumerate(zip(rows, counts, strict=True)):
        own = images[start : start + count] if count else None
        alone = model.generate(torch.tensor([row]), pixel_values=own, **how)
        for step, logits in enumerate(alone.logits):
            torch.testing.assert_close(together.logits[step][place], logits[0], atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(without.logits[step][place], logits[0], atol=2e-4, rtol=1e-4)
        start += count


def test_a_saved_model_gives_the_same_logits(model: LVLM, tmp_path: Any) -> None:
    model.save_pretrained(tmp_path)
    ids = torch.tensor([prompt(model, 5, "image", 6)])
    with torch.no_grad():
        loaded = LVLM.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(loaded(ids, None, pixels(1)).logits, model(ids, None, pixels(1)).logits)
