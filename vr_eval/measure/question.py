"""The question that every cost is measured on: one image under a prompt of a fixed length.

Costs of two cells are comparable only on the same question, so it depends on neither a task nor a run.
"""

from __future__ import annotations

from typing import Any

import torch

from vr_eval.models.lvlm import LVLM
from vr_eval.models.tiles import Size

PROMPT_TOKENS = 32
"""Text tokens of the prompt (ours)."""
TILED_SIDES = 2
"""A model that cuts images into tiles is shown a square one of so many times its tower's side (ours)."""


def example(
    model: LVLM, text_tokens: int = PROMPT_TOKENS, batch: int = 1, seed: int = 0, size: Size | None = None
) -> dict[str, Any]:
    """Arguments of one prefill of `model`, on its device: images first, then random text.

    Args:
        text_tokens: of each sample, beside the vision tokens of its one image.
        batch: number of samples.
        seed: of the random text and pixels.
        size: height and width of the image, for a model that cuts images into tiles; (0, 0): its base view alone.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    text = torch.randint(0, config.text_config.vocab_size - 1, (batch, text_tokens), generator=generator)
    text += (text >= config.image_token_id).long()  # any token but the image's
    side = config.image_px
    size = size or (TILED_SIDES * side, TILED_SIDES * side)
    tiles = 1 if model.scheme is None else model.scheme.place(size, model.tokens_per_side).tiles
    image = torch.full((batch, *model.image_tokens([size])), config.image_token_id)
    pixels = torch.randn(batch * tiles, 3, side, side, generator=generator)
    ids = torch.cat([image, text], dim=1).to(model.device)
    sizes = {} if model.scheme is None else {"image_sizes": torch.tensor([size] * batch)}
    return sizes | {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels.to(model.device, model.dtype),
        "use_cache": True,
        "logits_to_keep": 1,  # as in generation: only the last position's logits are needed
    }
