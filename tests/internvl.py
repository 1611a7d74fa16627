"""Tiny random InternVL checkpoints of transformers' own class, saved as they are on the hub."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
)
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

from tests.llava import text
from vr_eval.catalog.backbone import Source
from vr_eval.models.made_tokenizers import made_tokenizer

PX, PATCH, GRID, MOST = 24, 4, 6, 6
"""Pixels of a tile and of a patch, patches along a side, and the most tiles of an image."""


def internvl(folder: Path, *, decoder: str = "llava_onevision", tied: bool = False, layer: int = -1) -> Source:
    """A checkpoint of InternVLForConditionalGeneration with its processor; `decoder`: Qwen2 or, for llava, Llama."""
    torch.manual_seed(0)
    words = made_tokenizer("internvl")
    vision = InternVLVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=PX,
        patch_size=PATCH,
        attention_bias=True,
        initializer_range=0.2,
        layer_scale_init_value=1.0,
    )
    model = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=vision.to_dict(),
            text_config=text(decoder, len(words), tied=tied),
            image_token_id=words.context_image_token_id,
            image_seq_length=GRID**2 // 4,
            vision_feature_layer=layer,
            tie_word_embeddings=tied,
        )
    )
    with torch.no_grad():  # zeros and ones would hide an order of channels
        model.model.vision_tower.embeddings.position_embeddings.normal_(std=0.5)
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    square = {"height": PX, "width": PX}
    images = GotOcr2ImageProcessor(size=square, max_patches=MOST)
    videos = InternVLVideoProcessor(size=square)
    processor = InternVLProcessor(
        images, words, videos, image_seq_length=GRID**2 // 4, chat_template=words.chat_template
    )
    processor.save_pretrained(folder)
    return Source(str(folder))


def asked(images: int, words: str = "what is it?") -> str:
    """A question in ChatML about so many images."""
    marks = "<IMG_CONTEXT>\n" * images
    return f"<|im_start|>user\n{marks}{words}<|im_end|>\n<|im_start|>assistant\n"
