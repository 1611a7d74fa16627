"""LLaVA checkpoints: their configurations and names of tensors as ours, in both layouts that there are.

`ported`: transformers' LlavaForConditionalGeneration, LlavaNext... and LlavaOnevision..., as under llava-hf on the hub.
`original`: the decoder's own configuration with keys that begin with `mm_`, tensors under `model.mm_projector` and
`model.vision_tower`; the tower may be left out and is then loaded from where the configuration says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, CLIPVisionConfig, PreTrainedConfig, SiglipVisionConfig

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.tiling import AnyRes
from vr_eval.errors import InputError, Problem
from vr_eval.models.config import LVLMConfig
from vr_eval.models.hub import explained, pinned, refuse_others
from vr_eval.models.internvl import MODEL_TYPE, internvl_config
from vr_eval.models.official_tensors import decoder_renamings

PORTED = ("llava", "llava_next", "llava_onevision")
_ORIGINAL_DECODERS = {"LlavaLlama": "llama", "LlavaQwen": "qwen2", "LlavaMistral": "mistral", "LlavaPhi": "phi"}
_UNPORTED = "internvl_chat"
"""InternVL's own code, which the hub keeps beside transformers' port."""
_ONEVISION_LIMIT = "anyres_max_"


@dataclass(frozen=True)
class Described:
    """What a checkpoint's config.json says.

    Attributes:
        config: The same model as an LVLM: its own projector at its own ratio (LLaVA's: `mlp` at 1).
        tower: Where the tower comes from if its tensors are not there, and its image processor in any case; ``None``
            for the ported layout, which has both.
    """

    config: LVLMConfig
    tower: Source | None = None


def describe(content: Mapping[str, Any], source: Source, tower: Source | None = None) -> Described:
    """Read the config.json of a LLaVA or InternVL checkpoint.

    Args:
        content: The file's content.
        source: Where it is from, for errors.
        tower: In place of the one that an original checkpoint names.

    Raises:
        InputError: It is of no known layout, or computes something that the projector does not.
    """
    if "mm_vision_tower" in content:
        return _original(content, source, tower)
    if content.get("model_type") == MODEL_TYPE:
        return Described(internvl_config(content, source))
    if content.get("model_type") in PORTED:
        return Described(_ported(content, source))
    known = ", ".join((*PORTED, MODEL_TYPE))
    allowed = f"a LLaVA or InternVL checkpoint: model_type {known}, or an original one with mm_vision_tower"
    given = content.get("model_type")
    hint = "Take the checkpoint of the same name that ends with -hf." if given == _UNPORTED else None
    raise InputError(Problem("not a known checkpoint", source.name, given=given, allowed=allowed, hint=hint))


def renamings() -> dict[str, str]:
    """Patterns of both layouts' names and what they are called in an `LVLM`, for ``from_pretrained(key_mapping=...)``.

    Every pattern is tried on every name, in this order.
    """
    return {
        **decoder_renamings(),
        r"^(?:model\.)?multi_modal_projector\.layer_norm\.": "projector.norm.",
        r"^(?:model\.)?multi_modal_projector\.linear_1\.": "projector.mlp.0.",
        r"^(?:model\.)?multi_modal_projector\.linear_2\.": "projector.mlp.2.",
        r"^model\.vision_tower\.": "vision_tower.",
        r"^model\.language_model\.": "language_model.model.",
        r"^model\.image_newline": "image_newline",
    }


def _ported(content: Mapping[str, Any], source: Source) -> LVLMConfig:
    with explained(source, "the configuration"):
        config = AutoConfig.for_model(**content)
    has_class_token = isinstance(config.vision_config, CLIPVisionConfig)
    needed = {
        "vision_feature_layer": (isinstance(config.vision_feature_layer, int), "a single layer"),
        "projector_hidden_act": (config.projector_hidden_act == "gelu", "gelu"),
        "multimodal_projector_bias": (config.multimodal_projector_bias, "true"),
        "vision_feature_select_strategy": (
            config.vision_feature_select_strategy == ("default" if has_class_token else "full"),
            "patches without the class token",
        ),
    }
    refuse_others(needed, config, source, "mlp")
    tiling = None
    if config.model_type != "llava":
        onevision = config.model_type == "llava_onevision"
        limit = int(config.vision_aspect_ratio.removeprefix(_ONEVISION_LIMIT)) if onevision else None
        tiling = AnyRes(tuple((h, w) for h, w in config.image_grid_pinpoints), limit, onevision)
    text = config.text_config.to_dict() | {"tie_word_embeddings": config.tie_word_embeddings}
    return LVLMConfig(
        config.vision_config.to_dict(),
        text,
        select_layer=config.vision_feature_layer,
        image_token_id=config.image_token_index,
        tiling=tiling.row if tiling else None,
    )


def _original(content: Mapping[str, Any], source: Source, tower: Source | None) -> Described:
    tiled = str(content.get("image_aspect_ratio")).startswith("anyres")
    needed = {
        "mm_projector_type": (content.get("mm_projector_type") == "mlp2x_gelu", "mlp2x_gelu"),
        "mm_vision_select_feature": (content.get("mm_vision_select_feature", "patch") == "patch", "patch"),
        "mm_patch_merge_type": (
            not tiled or content.get("mm_patch_merge_type") == "spatial_unpad",
            "spatial_unpad",
        ),
        "mm_resampler_type": (not content.get("mm_resampler_type"), "no resampler"),
    }
    refuse_others(needed, content, source, "mlp")
    tower = tower or pinned(Source(str(content["mm_vision_tower"])))
    vision = tower_config(tower)
    select = int(content.get("mm_vision_select_layer", -2))
    if isinstance(vision, SiglipVisionConfig):
        # LLaVA leaves SigLIP's last layer and its head out, whatever layer is asked for, and reads what is left.
        vision.num_hidden_layers, vision.vision_use_head, select = vision.num_hidden_layers - 1, False, -1
    architecture = str((content.get("architectures") or [""])[0])
    family = next((kind for name, kind in _ORIGINAL_DECODERS.items() if architecture.startswith(name)), None)
    if family is None:
        allowed = ", ".join(f"{name}ForCausalLM" for name in _ORIGINAL_DECODERS)
        raise InputError(
            Problem("unknown decoder", source.name, key="architectures", given=architecture, allowed=allowed)
        )
    known = AutoConfig.for_model(family).to_dict()
    text = {key: value for key, value in content.items() if key in known} | {"model_type": family}
    config = LVLMConfig(
        vision.to_dict(),
        text,
        select_layer=select,
        image_token_id=-1,  # the tokenizer of an original checkpoint has none: one is added to it
        tiling=_original_tiling(content, vision.image_size),
    )
    return Described(config, tower)


def tower_config(tower: Source) -> PreTrainedConfig:
    """The configuration of a vision tower, which may be a part of a CLIP or SigLIP model of images and text.

    Raises:
        InputError: It cannot be loaded, or is of another family.
    """
    with explained(tower, "the vision tower"):
        config = AutoConfig.from_pretrained(tower.name, revision=tower.revision)
    config = getattr(config, "vision_config", config)
    if not isinstance(config, CLIPVisionConfig | SiglipVisionConfig):
        allowed = "a CLIP or SigLIP vision model"
        raise InputError(Problem("not a vision tower", tower.name, given=config.model_type, allowed=allowed))
    return config


def _original_tiling(content: Mapping[str, Any], tile_px: int) -> dict[str, Any] | None:
    shape = str(content.get("image_aspect_ratio") or "square")
    if not shape.startswith("anyres"):
        return None
    limited = shape.startswith(_ONEVISION_LIMIT)
    limit = int(shape.removeprefix(_ONEVISION_LIMIT)) if limited else None
    return AnyRes(_pinpoints(content.get("image_grid_pinpoints") or [], tile_px), limit, limited).row


def _pinpoints(points: str | list[list[int]], tile_px: int) -> tuple[tuple[int, int], ...]:
    """Resolutions ``(height, width)``; original configurations write the width first, or numbers of tiles as text."""
    if not isinstance(points, str):
        return tuple((int(height), int(width)) for width, height in points)
    pairs = [(int(x), int(y)) for x, y in re.findall(r"(\d+)\s*[x,]\s*(\d+)", points)]
    if "x" not in points or not pairs:
        return tuple((height, width) for width, height in pairs)
    # "(1x1),...,(6x6)": every number of tiles from the first to the last.
    columns, rows = (range(low, high + 1) for low, high in zip(pairs[0], pairs[-1], strict=True))
    return tuple((row * tile_px, column * tile_px) for row in rows for column in columns)
