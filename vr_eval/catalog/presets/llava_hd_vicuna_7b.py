"""LLaVA with Vicuna-7B and TokenPacker-HD's tiles (arXiv 2407.02392), put together from its parts.

With the projector tokenpacker at 1/4 it is TokenPacker-HD-7B (up to 9 tiles of 144 tokens), here trained on the data of
its neighbours and not on the official 1.2M + 1.5M samples.
"""

from __future__ import annotations

from dataclasses import replace

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.presets.llava_next_qwen2_0_5b import LLAVA_NEXT_QWEN2_0_5B
from vr_eval.catalog.presets.llava_next_vicuna_7b import LLAVA_NEXT_VICUNA_7B
from vr_eval.catalog.tiling import TokenPackerHD

LLAVA_HD_VICUNA_7B = replace(
    LLAVA_NEXT_VICUNA_7B,
    name="llava_hd_vicuna_7b",
    summary="LLaVA from parts: CLIP-ViT-L/14-336, Vicuna-7B, TokenPacker-HD's tiles",
    checkpoint=None,
    tower=LLAVA_NEXT_QWEN2_0_5B.tower,
    decoder=Source("lmsys/vicuna-7b-v1.5"),
    tiling=TokenPackerHD.of(336),
)
