"""Processors: those of LLaVA and InternVL models, told how many vision tokens stand for an image."""

from __future__ import annotations

from math import isqrt
from typing import TypeAlias

from transformers import (
    BaseImageProcessor,
    InternVLProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from vr_eval.models.hd import HDImageProcessor, HDProcessor
from vr_eval.models.spec import Tiling

Processor: TypeAlias = LlavaProcessor | LlavaNextProcessor | LlavaOnevisionProcessor | InternVLProcessor

IMAGE = "<image>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen's format for messages whose parts are images and text; no system turn, as in training."""


def lvlm_processor(
    image_processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase, patch_px: int, ratio: int
) -> LlavaProcessor:
    """A `LlavaProcessor` that writes one image token per compressed cell: `patch_px * s` pixels a side.

    `patch_px`: pixels of the processed image under one patch that the tower sees (more where it is downsampled).
    """
    processor = LlavaProcessor(
        image_processor=image_processor, tokenizer=tokenizer, chat_template=tokenizer.chat_template
    )
    return fitted(processor, patch_px, 0, ratio)


def tiled_processor(
    image_processor: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase, tiling: Tiling, image_px: int
) -> LlavaNextProcessor | LlavaOnevisionProcessor:
    """A processor that cuts images into tiles, for a tower whose own is `image_processor`; it has to be `fitted`."""
    kept = {name: getattr(image_processor, name) for name in ("image_mean", "image_std", "resample")}
    points = [list(point) for point in tiling.pinpoints]
    template = tokenizer.chat_template
    square = {"height": image_px, "width": image_px}
    if tiling.scheme == "tokenpacker_hd":
        slices = HDImageProcessor(size=square, max_patches=tiling.most_tiles(image_px), **kept)
        return HDProcessor(image_processor=slices, tokenizer=tokenizer, chat_template=template)
    if tiling.limit is None:
        images = LlavaNextImageProcessor(
            size={"shortest_edge": image_px}, crop_size=square, image_grid_pinpoints=points, **kept
        )
        return LlavaNextProcessor(image_processor=images, tokenizer=tokenizer, chat_template=template)
    images = LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=points, **kept)
    return LlavaOnevisionProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(),  # never used; the class wants one
        chat_template=template,
        vision_aspect_ratio=f"anyres_max_{tiling.limit}",
    )


def fitted(processor: Processor, patch_px: int, grid: int, ratio: int) -> Processor:
    """`processor`, in place, told that each square of ``grid x grid`` patches becomes ``grid**2 / ratio`` tokens.

    `grid` is looked at by OneVision's and InternVL's processors alone, the others count in `patch_px`.
    """
    if isinstance(processor, InternVLProcessor):
        processor.image_seq_length = grid**2 // ratio
        return processor
    processor.vision_feature_select_strategy = "full"
    if isinstance(processor, LlavaOnevisionProcessor):
        processor.num_image_tokens = grid**2 // ratio
    else:
        processor.patch_size = patch_px * isqrt(ratio)
        processor.num_additional_image_tokens = 0
    return processor


def image_text(tokenizer: PreTrainedTokenizerBase, tokens: int) -> str:
    """What stands for an image of so many `tokens` in a prompt; InternVL's tokenizer has tokens around them too."""
    if not hasattr(tokenizer, "context_image_token"):
        return getattr(tokenizer, "image_token", IMAGE) * tokens
    return f"{tokenizer.start_image_token}{tokenizer.context_image_token * tokens}{tokenizer.end_image_token}"


def with_image_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """`tokenizer`, in place, with a token for images, padding on the left and a template that shows images.

    A token that is added needs no place in the decoder's embeddings: an LVLM never looks it up.
    """
    if tokenizer.convert_tokens_to_ids(IMAGE) in (None, tokenizer.unk_token_id):
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]}, replace_additional_special_tokens=False)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if IMAGE not in (tokenizer.chat_template or "") and "<|im_start|>" in tokenizer.get_vocab():
        tokenizer.chat_template = CHATML
    return tokenizer
