"""LLaVA-1.5-7B: the same parts as LLaVA-NeXT with Vicuna, and every image one square."""

from __future__ import annotations

from dataclasses import replace

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.presets.llava_next_vicuna_7b import LLAVA_NEXT_VICUNA_7B

LLAVA_1_5_7B = replace(
    LLAVA_NEXT_VICUNA_7B,
    name="llava_1_5_7b",
    summary="LLaVA-1.5 as published: CLIP-ViT-L/14-336, Vicuna-7B, no tiles",
    checkpoint=Source("llava-hf/llava-1.5-7b-hf"),
    tiling=None,
)
