"""LLaVA-NeXT (1.6) with Vicuna-7B: a trained checkpoint, whose uncompressed cell needs no training."""

from __future__ import annotations

from dataclasses import replace

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.presets.llava_next_qwen2_0_5b import LLAVA_NEXT_QWEN2_0_5B

LLAVA_NEXT_VICUNA_7B = replace(
    LLAVA_NEXT_QWEN2_0_5B,
    name="llava_next_vicuna_7b",
    summary="LLaVA-NeXT (1.6) as published: CLIP-ViT-L/14-336, Vicuna-7B",
    checkpoint=Source("llava-hf/llava-v1.6-vicuna-7b-hf"),
    tower=None,
    decoder=None,
    decoder_depth=32,
    decoder_width=4096,
    template="vicuna",
)
