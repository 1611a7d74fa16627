"""InternVL checkpoints of transformers' InternVLForConditionalGeneration: their configuration and projector as ours.

The tower is InternViT, the projector `pixel_shuffle`, the decoder any causal language model; images are stretched over
tiles of the closest aspect, all of whose tokens stand in a row between two tokens that the processor writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, InternVLProcessor

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.tiling import InternVLTiles
from vr_eval.methods.pixel_shuffle.module import PixelShuffle
from vr_eval.models.config import LVLMConfig
from vr_eval.models.hub import explained, refuse_others

MODEL_TYPE = "internvl"


def internvl_config(content: Mapping[str, Any], source: Source) -> LVLMConfig:
    """The same model as an LVLM, yet without the tiling that its processor knows.

    Raises:
        InputError: It computes something that `pixel_shuffle` does not.
    """
    with explained(source, "the configuration"):
        config = AutoConfig.for_model(**content)
    vision, side = config.vision_config, round(1 / config.downsample_ratio)
    needed = {
        "vision_feature_layer": (isinstance(config.vision_feature_layer, int), "a single layer"),
        "projector_hidden_act": (config.projector_hidden_act == "gelu", "gelu"),
        "vision_feature_select_strategy": (config.vision_feature_select_strategy == "default", "default"),
        "downsample_ratio": (config.downsample_ratio * side == 1, "1, 1/2, 1/3, ..."),
    }
    refuse_others(needed, config, source, "pixel_shuffle")
    # Else a norm follows the last layer.
    refuse_others({"use_mean_pooling": (vision.use_mean_pooling, "true")}, vision, source, "pixel_shuffle")
    text = config.text_config.to_dict() | {"tie_word_embeddings": config.tie_word_embeddings}
    return LVLMConfig(
        vision.to_dict(),
        text,
        projector="pixel_shuffle",
        ratio=side**2,
        select_layer=config.vision_feature_layer,
        image_token_id=config.image_token_id,
    )


def internvl_tiling(processor: InternVLProcessor) -> InternVLTiles:
    """How `processor` cuts images into tiles; from here on it does so wherever it is called from."""
    images = processor.image_processor
    images.crop_to_patches = True
    return InternVLTiles.of(images.size["height"], images.max_patches, images.min_patches)


@torch.no_grad()
def reorder(projector: PixelShuffle) -> None:
    """Put the channels of weights that were just loaded in the order of `PixelShuffle`, in place.

    InternVL writes the cells of a window one after the other, we each channel's cells: ``(s*s, D)`` as ``(D, s*s)``.
    """
    cells = projector.stride**2

    first: Any = projector.mlp[0]
    for weight in (projector.norm.weight, projector.norm.bias, first.weight):
        weight.copy_(weight.unflatten(-1, (cells, -1)).transpose(-1, -2).flatten(-2))
