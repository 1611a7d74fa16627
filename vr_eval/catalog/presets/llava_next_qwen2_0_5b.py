"""LLaVA-NeXT with CLIP-ViT-L/14-336 and Qwen2-0.5B: the paper's baseline, put together from its parts."""

from __future__ import annotations

from vr_eval.catalog.backbone import BackboneSpec, Loading, Source
from vr_eval.catalog.official_tasks import SUITES
from vr_eval.catalog.recipe import Recipe, SecondStage, Stage
from vr_eval.catalog.tiling import AnyRes

LLAVA_NEXT_QWEN2_0_5B = BackboneSpec(
    name="llava_next_qwen2_0_5b",
    summary="LLaVA-NeXT from parts: CLIP-ViT-L/14-336, Qwen2-0.5B (the paper's baseline)",
    tower=Source("openai/clip-vit-large-patch14-336"),
    grid=24,
    image_px=336,
    patch_px=14,
    tower_depth=24,
    tower_width=1024,
    tower_heads=16,
    select_layer=23,
    tiling=AnyRes(((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))),
    decoder=Source("Qwen/Qwen2-0.5B-Instruct"),
    decoder_depth=24,
    decoder_width=896,
    suites=SUITES,
    data_version="llava-next-data-1",
    template="chatml",
    # ablations/recipes/llava_next.yaml, which says where each value comes from.
    recipe=Recipe(
        batch_size=128,
        lr_projector=1e-3,
        image_first=True,
        stage1=Stage(steps=2180, batch_size=256),
        stage2=SecondStage(
            steps=6088, lr_projector=1e-5, lr_decoder=1e-5, lr_tower=2e-6, data="lmms-lab/LLaVA-NeXT-Data"
        ),
    ),
    loading=Loading(dtype="bfloat16"),
    train_seconds_per_step=None,
    eval_ms_per_question=None,
)
