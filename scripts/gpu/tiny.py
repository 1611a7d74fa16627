"""Small twins of the presets, for what has to run on a CPU in seconds: the same classes, narrow and short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vr_eval.catalog.backbone import BackboneSpec
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.catalog.presets import PRESETS
from vr_eval.catalog.stated import STATED, Stated
from vr_eval.catalog.tiling import Tiling

GRID, PATCH_PX = 12, 14
IMAGE_PX = GRID * PATCH_PX
DEPTH = 4
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": DEPTH, "num_attention_heads": 2}
DECODER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
}


def twin(name: str) -> tuple[BackboneSpec, dict[str, Stated]]:
    """The twin of the preset `name`, to be put into `BACKBONES`, and what it is made from, to be put into `STATED`."""
    spec = next(spec for spec in PRESETS if spec.name == name)
    return _twin(spec), {source.name: _small(STATED[source.name]) for source in spec.sources}


def register(name: str) -> None:
    """Put the twin in the place of the preset `name`, for the rest of this process."""
    spec, stated = twin(name)
    BACKBONES[name] = spec
    STATED.update(stated)


def _twin(spec: BackboneSpec) -> BackboneSpec:
    return replace(
        spec,
        grid=GRID,
        image_px=IMAGE_PX,
        patch_px=PATCH_PX,
        tower_depth=DEPTH,
        tower_width=TOWER["hidden_size"],
        tower_heads=TOWER["num_attention_heads"],
        select_layer=DEPTH - (spec.tower_depth - spec.select_layer),
        decoder_depth=DEPTH,
        decoder_width=DECODER["hidden_size"],
        tiling=_tiles(spec.tiling, spec.image_px) if spec.tiling else None,
    )


def _tiles(tiling: Tiling, image_px: int) -> Tiling:
    points = tuple((height // image_px * IMAGE_PX, width // image_px * IMAGE_PX) for height, width in tiling.pinpoints)
    return replace(tiling, pinpoints=points)


def _small(stated: Stated) -> Stated:
    config = dict(stated.config)
    if "vision_config" not in config:
        narrow = DECODER if stated.tokenizer else _tower(config)
        return replace(stated, config=config | narrow)
    config |= {
        "vision_config": {**config["vision_config"], **_tower(config["vision_config"])},
        "text_config": {**config["text_config"], **DECODER},
    }
    if "image_grid_pinpoints" in config:
        unit = stated.tower["image_size"]
        config["image_grid_pinpoints"] = [
            [side // unit * IMAGE_PX for side in p] for p in config["image_grid_pinpoints"]
        ]
    return replace(stated, config=config)


def _tower(config: Mapping[str, Any]) -> dict[str, Any]:
    side: Any = IMAGE_PX if isinstance(config["image_size"], int) else [IMAGE_PX, IMAGE_PX]
    return {**TOWER, "image_size": side}
