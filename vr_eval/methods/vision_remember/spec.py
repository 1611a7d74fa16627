"""VisionRemember: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.levels import Level
from vr_eval.methods.options import Fault, RefusionOptions, Shape, head_faults, layer_faults, levels_at
from vr_eval.methods.spec import MethodSpec

VISION_REMEMBER_LEVELS = (13, 18, 23)
"""Hidden states of a 24-layer tower (paper)."""


@dataclass(frozen=True)
class VisionRememberOptions(RefusionOptions):
    """Cross-attention to the vision features and self-attention among vision tokens, between decoder layers."""

    levels: tuple[int, ...] | None = described(
        None,
        "tower layers whose features are looked at again (0 = embeddings)",
        source="paper",
        minimum=0,
        default_note="{13, 18, 23} of 24; the same fractions of other depths (ours)",
    )
    layers: tuple[int, ...] | None = described(
        None,
        "decoder layers after which a module stands (0 = after the first)",
        minimum=0,
        default_note="evenly spaced over the first two thirds; 4 of them for 24 layers or more",
    )
    halo: int = described(0, "cells added to each side of a token's window", minimum=0)
    fusion: str = described(
        "concat",
        "levels of a cell: one key from all (concat), one key each (per_level), the top level only (last)",
        source="paper",
        choices=("concat", "per_level", "last"),
    )
    scope: str = described(
        "local",
        "a token looks at the cells under it (local) or at all cells (global)",
        source="paper",
        choices=("local", "global"),
    )
    text_guide: str = described(
        "mean",
        "text-guided token: mean or last of the instruction's hidden states, or none",
        choices=("mean", "last", "none"),
    )
    order: str = described(
        "cross_first",
        "which attention comes first, or stands alone",
        choices=("cross_first", "self_first", "cross_only", "self_only"),
    )
    ffn: bool = described(False, "a feed-forward layer after the attentions")
    heads: int = described(8, "attention heads; must divide the decoder's width", minimum=1)
    zero_init: bool = described(True, "output projections start at zero, so that training starts at the base model")

    def resolve(self, shape: Shape) -> VisionRememberOptions:
        return dataclasses.replace(
            self,
            levels=self.levels or levels_at(shape.tower_depth, VISION_REMEMBER_LEVELS),
            layers=self.layers or insertion_layers(shape.decoder_depth),
        )

    def reads(self, shape: Shape) -> tuple[Level, ...]:
        levels = self.levels or ()
        return levels[-1:] if self.fusion == "last" else levels

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        faults = [
            *layer_faults("levels", self.levels, shape.tower_depth, "the vision tower"),
            *layer_faults("layers", self.layers, shape.decoder_depth - 1, "the decoder"),
            *head_faults(self.heads, shape.decoder_width, "the decoder's width"),
        ]
        if self.halo >= shape.grid:
            message = f"a halo of {self.halo} reaches past the whole {shape.grid}x{shape.grid} patch grid"
            faults.append(Fault("halo", message, f"0 to {shape.grid - 1}"))
        elif self.halo and self.scope == "global":
            faults.append(Fault("halo", "a halo has no effect with scope: global", "0"))
        return tuple(faults)

    def needs_grid(self) -> bool:
        return self.scope == "local"


def insertion_layers(decoder_depth: int) -> tuple[int, ...]:
    """Decoder layers after which a refusion module stands: evenly spaced over the first two thirds (ours).

    4 of them for 24 layers or more, else one for every 6 layers, at least 2 (1 in a decoder of 2 layers or fewer).
    24 layers give (0, 5, 10, 15), 4 layers give (0, 2).
    """
    last = max(0, (4 * decoder_depth - 3) // 6)  # 2/3 of the depth, minus 1, rounded half up
    count = 4 if decoder_depth >= 24 else max(2, round(decoder_depth / 6))
    gaps = min(count - 1, last)
    return tuple((2 * last * i + gaps) // (2 * gaps) for i in range(gaps + 1)) if gaps else (0,)


SPEC = MethodSpec(
    name="vision_remember",
    options=VisionRememberOptions,
    version=1,
    summary="vision tokens look at the vision features again, between decoder layers",
    source="Vision Remember, arXiv 2506.03928",
    link="https://arxiv.org/abs/2506.03928",
    details=(
        (
            "paper",
            "between decoder layers: local cross-attention to the multi-level features under each token, then "
            "bidirectional self-attention among the vision tokens and a text-guided token",
        ),
        (
            "ours",
            "norms, sizes, the cells' embedding, insertion points, the guiding token, zero initialisation",
        ),
    ),
    module="vr_eval.methods.vision_remember.module",
    cls="VisionRemember",
)
