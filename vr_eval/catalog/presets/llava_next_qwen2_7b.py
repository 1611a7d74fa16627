"""LLaVA-NeXT with Qwen2-7B."""

from __future__ import annotations

from dataclasses import replace

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.presets.llava_next_qwen2_0_5b import LLAVA_NEXT_QWEN2_0_5B

LLAVA_NEXT_QWEN2_7B = replace(
    LLAVA_NEXT_QWEN2_0_5B,
    name="llava_next_qwen2_7b",
    summary="LLaVA-NeXT from parts: CLIP-ViT-L/14-336, Qwen2-7B",
    decoder=Source("Qwen/Qwen2-7B-Instruct"),
    decoder_depth=28,
    decoder_width=3584,
)
