"""LLaVA-OneVision with Qwen2-7B."""

from __future__ import annotations

from dataclasses import replace

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.presets.llava_onevision_0_5b import LLAVA_ONEVISION_0_5B

LLAVA_ONEVISION_7B = replace(
    LLAVA_ONEVISION_0_5B,
    name="llava_onevision_7b",
    summary="LLaVA-OneVision as published: SigLIP-so400m/14-384, Qwen2-7B",
    checkpoint=Source("llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    decoder_depth=28,
    decoder_width=3584,
)
