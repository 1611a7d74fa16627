"""The processor of an LVLM: LLaVA's own, told how many vision tokens stand for one image."""

from __future__ import annotations

from math import isqrt

from transformers import BaseImageProcessor, LlavaProcessor, PreTrainedTokenizerBase


def lvlm_processor(
    image_processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase, patch_px: int, ratio: int
) -> LlavaProcessor:
    """A `LlavaProcessor` that writes one image token per compressed cell: `patch_px * s` pixels a side.

    `patch_px`: pixels of the processed image under one patch that the tower sees (more where it is downsampled).
    """
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=patch_px * isqrt(ratio),
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
