"""InternVL3-1B: another family, with a tower and a projector of its own (pixel shuffle at 1/4).

Sizes are those of the configuration that OpenGVLab/InternVL3-1B prints (github.com/shivangjhalani/multicoco,
InternVL3-1B_data.md) and of transformers' InternVLVisionConfig, whose defaults are this checkpoint's; not yet compared
with the checkpoint itself.
"""

from __future__ import annotations

from dataclasses import replace

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.presets.llava_next_qwen2_0_5b import LLAVA_NEXT_QWEN2_0_5B
from vr_eval.catalog.tiling import InternVLTiles

INTERNVL3_1B = replace(
    LLAVA_NEXT_QWEN2_0_5B,
    name="internvl3_1b",
    summary="InternVL3 as published: InternViT-300M/14-448, Qwen2.5-0.5B; its own projector is pixel_shuffle at 1/4",
    checkpoint=Source("OpenGVLab/InternVL3-1B-hf"),
    tower=None,
    decoder=None,
    grid=32,
    image_px=448,
    select_layer=24,
    tiling=InternVLTiles.of(448),
    own_projector="pixel_shuffle",
    own_ratio=4,
)
