"""Backbones of the field by name, one file each; a file says what differs from its neighbour. Data only, no torch.

Sizes are those of the published configurations. No weights are shipped: they come from the Hugging Face hub, or from
its cache.
"""

from __future__ import annotations

from vr_eval.catalog.presets.internvl3_1b import INTERNVL3_1B
from vr_eval.catalog.presets.llava_1_5_7b import LLAVA_1_5_7B
from vr_eval.catalog.presets.llava_hd_vicuna_7b import LLAVA_HD_VICUNA_7B
from vr_eval.catalog.presets.llava_next_qwen2_0_5b import LLAVA_NEXT_QWEN2_0_5B
from vr_eval.catalog.presets.llava_next_qwen2_1_5b import LLAVA_NEXT_QWEN2_1_5B
from vr_eval.catalog.presets.llava_next_qwen2_7b import LLAVA_NEXT_QWEN2_7B
from vr_eval.catalog.presets.llava_next_vicuna_7b import LLAVA_NEXT_VICUNA_7B
from vr_eval.catalog.presets.llava_onevision_0_5b import LLAVA_ONEVISION_0_5B
from vr_eval.catalog.presets.llava_onevision_7b import LLAVA_ONEVISION_7B

PRESETS = (
    LLAVA_NEXT_QWEN2_0_5B,
    LLAVA_NEXT_QWEN2_1_5B,
    LLAVA_NEXT_QWEN2_7B,
    LLAVA_NEXT_VICUNA_7B,
    LLAVA_1_5_7B,
    LLAVA_ONEVISION_0_5B,
    LLAVA_ONEVISION_7B,
    LLAVA_HD_VICUNA_7B,
    INTERNVL3_1B,
)
