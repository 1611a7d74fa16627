"""The question that every cost is measured on: one image under a prompt of a fixed length.

Costs of two cells are comparable only on the same question, so it depends on neither a task nor a run.
"""

from __future__ import annotations

from typing import Any

import torch

from vr_eval.models.lvlm import LVLM

PROMPT_TOKENS = 32
"""Text tokens of the prompt (ours)."""


def example(model: LVLM, text_tokens: int = PROMPT_TOKENS, batch: int = 1, seed: int = 0) -> dict[str, Any]:
    """Arguments of one prefill of `model`, on its device: images first, then random text.

    Args:
        text_tokens: of each sample, beside the vision tokens of its one image.
        batch: number of samples.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    text = torch.randint(0, config.text_config.vocab_size - 1, (batch, text_tokens), generator=generator)
    text += (text >= config.image_token_id).long()  # any token but the image's
    image = torch.full((batch, model.tokens_per_image), config.image_token_id)
    side = config.vision_config.image_size
    pixels = torch.randn(batch, 3, side, side, generator=generator)
    ids = torch.cat([image, text], dim=1).to(model.device)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels.to(model.device, model.dtype),
        "use_cache": True,
        "logits_to_keep": 1,  # as in generation: only the last position's logits are needed
    }
