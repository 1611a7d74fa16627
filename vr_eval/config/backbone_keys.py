"""The keys of ``backbone`` where it is a mapping: check, default and documentation of a key are one entry here."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.backbone import DTYPES
from vr_eval.catalog.chat_templates import TEMPLATES
from vr_eval.catalog.fields import FieldInfo, described
from vr_eval.catalog.tiling import TILINGS, AnyRes
from vr_eval.methods.registry import of_seam

FROM = FieldInfo("the backbone that everything left out is taken from", example="from: llava_next_vicuna_7b")

MODEL = "a hub id, ID@REVISION, or a folder"
_PRESET = "that of `from`"


@dataclass(frozen=True)
class DescribedBackbone:
    """The keys of ``backbone`` where it is a mapping, every value checked by itself. Sizes are those of the weights."""

    name: str = described(
        "", "its name in results, none that is taken", example="name: my_llava", default_note="must be given"
    )
    checkpoint: str | None = described(
        None,
        f"tower, projector, decoder and processor in one: {MODEL}",
        example="checkpoint: me/my-llava@v2",
        default_note=_PRESET,
    )
    tower: str | None = described(
        None, f"in place of checkpoint: vision tower and image processor, {MODEL}", default_note=_PRESET
    )
    decoder: str | None = described(
        None, f"in place of checkpoint: decoder and tokenizer, {MODEL}", default_note=_PRESET
    )
    grid: int = described(0, "patches per side of an image or tile", minimum=1, maximum=1024, default_note=_PRESET)
    image_px: int = described(
        0, "pixels per side of it: grid * patch_px", minimum=1, maximum=65_536, default_note=_PRESET
    )
    patch_px: int = described(0, "pixels per side of a patch", minimum=1, maximum=65_536, default_note=_PRESET)
    tower_depth: int = described(0, "layers of the vision tower", minimum=1, maximum=1000, default_note=_PRESET)
    tower_width: int = described(0, "its channels", minimum=1, maximum=1_000_000, default_note=_PRESET)
    tower_heads: int = described(0, "its attention heads", minimum=1, maximum=100_000, default_note=_PRESET)
    select_layer: int = described(
        0, "hidden state that a projector compresses, 0 the embeddings", minimum=0, maximum=1000, default_note=_PRESET
    )
    decoder_depth: int = described(0, "layers of the decoder", minimum=1, maximum=1000, default_note=_PRESET)
    decoder_width: int = described(0, "its channels", minimum=1, maximum=1_000_000, default_note=_PRESET)
    own_projector: str = described(
        "", "projector that the checkpoint was trained with", choices=of_seam("projector"), default_note=_PRESET
    )
    own_ratio: int = described(0, "ratio that it was trained with", minimum=1, maximum=1_000_000, default_note=_PRESET)
    template: str | None = described(
        None,
        "chat template where the weights bring none that shows images; null to tell it from the tokenizer",
        choices=tuple(TEMPLATES),
        default_note=_PRESET,
    )
    dtype: str = described("", "in which weights are loaded to be evaluated", choices=DTYPES, default_note=_PRESET)


TILING = FieldInfo(
    "how images are cut into tiles: null for one square, or the keys below; beside the scheme of `from`, those that "
    "are left out are its own",
    example="tiling: {scheme: anyres, pinpoints: [[336, 672], [672, 336]]}",
    default_note=_PRESET,
)
SCHEME = FieldInfo(f"how images are cut into tiles: {', '.join(TILINGS)}", default_note=AnyRes.scheme)
"""The key ``scheme`` of ``backbone.tiling``; its other keys are the fields of the scheme's description."""
