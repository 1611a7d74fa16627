"""Processors: those of LLaVA and InternVL models, told how many vision tokens stand for an image."""

from __future__ import annotations

from math import isqrt
from typing import TypeAlias

from tokenizers import AddedToken
from transformers import (
    BaseImageProcessor,
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.chat_templates import IMAGE, TEMPLATES, family_template
from vr_eval.errors import InputError, Problem
from vr_eval.models.chat import Chat

Processor: TypeAlias = LlavaProcessor | LlavaNextProcessor | LlavaOnevisionProcessor | InternVLProcessor


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


def with_image_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """`tokenizer`, in place, with a token for images, one for padding, and padding on the left.

    A token that is added needs no place in the decoder's embeddings: an LVLM never looks it up.

    Raises:
        ValueError: it has no token that could be used for padding.
    """
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        spare = tokenizer.unk_token or tokenizer.eos_token
        if spare is None:
            raise ValueError("its tokenizer has neither a token for padding nor one that ends a text")
        tokenizer.pad_token = spare
    return tokenizer


def with_template(
    carrier: Processor | PreTrainedTokenizerBase, source: Source, decoder: str, template: str | None = None
) -> None:
    """Give a processor, or a tokenizer that is to be part of one, a chat template that shows images.

    One of its own that does is kept; else it gets that by the name of `template`, else the one of its family.

    Args:
        carrier: Changed in place.
        source: Where it is from, for errors.
        decoder: The `model_type` of its decoder.
        template: A key of `TEMPLATES`.

    Raises:
        InputError: No template is known for it, or it lacks tokens of the one that is named.
    """
    chat = Chat.of(carrier)
    if chat.shows_images:
        return
    tokenizer = chat.tokenizer
    vocabulary = tokenizer.get_vocab()
    name = template or family_template(vocabulary, decoder)
    if name is None:
        hint = "Name one where the backbone is described in the grid file."
        message = "it brings no chat template that shows images, and none is known for its tokenizer"
        raise InputError(Problem(message, source.name, key="template", allowed=", ".join(TEMPLATES), hint=hint))
    for mark in TEMPLATES[name].marks:
        if mark not in vocabulary:
            message = f"its tokenizer does not know {mark}, which the chat template {name} writes"
            raise InputError(Problem(message, source.name, key="template", given=name, allowed=", ".join(TEMPLATES)))
    carrier.chat_template = Chat.named(name, tokenizer).template.jinja
