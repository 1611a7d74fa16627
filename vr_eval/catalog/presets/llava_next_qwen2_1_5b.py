"""LLaVA-NeXT with Qwen2-1.5B."""

from __future__ import annotations

from dataclasses import replace

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.presets.llava_next_qwen2_0_5b import LLAVA_NEXT_QWEN2_0_5B

LLAVA_NEXT_QWEN2_1_5B = replace(
    LLAVA_NEXT_QWEN2_0_5B,
    name="llava_next_qwen2_1_5b",
    summary="LLaVA-NeXT from parts: CLIP-ViT-L/14-336, Qwen2-1.5B",
    decoder=Source("Qwen/Qwen2-1.5B-Instruct"),
    decoder_depth=28,
    decoder_width=1536,
)
