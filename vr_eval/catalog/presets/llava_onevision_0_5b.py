"""LLaVA-OneVision with Qwen2-0.5B: SigLIP, more tiles, and a limit to their tokens."""

from __future__ import annotations

from dataclasses import replace

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.presets.llava_next_vicuna_7b import LLAVA_NEXT_VICUNA_7B
from vr_eval.catalog.tiling import AnyRes

_SIDES = tuple(384 * tiles for tiles in range(1, 7))

LLAVA_ONEVISION_0_5B = replace(
    LLAVA_NEXT_VICUNA_7B,
    name="llava_onevision_0_5b",
    summary="LLaVA-OneVision as published: SigLIP-so400m/14-384, Qwen2-0.5B",
    checkpoint=Source("llava-hf/llava-onevision-qwen2-0.5b-ov-hf"),
    grid=27,
    image_px=384,
    tower_depth=26,
    tower_width=1152,
    select_layer=26,
    tiling=AnyRes(tuple((height, width) for height in _SIDES for width in _SIDES), limit=9, lone=True),
    decoder_depth=24,
    decoder_width=896,
    template="chatml",
)
