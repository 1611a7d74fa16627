"""TokenPacker: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.levels import Level
from vr_eval.methods.options import Fault, ProjectorOptions, Shape, head_faults, layer_faults, levels_at
from vr_eval.methods.spec import MethodSpec

TOKENPACKER_LEVELS = (12, 16, 22, 23)
"""Hidden states of a 24-layer tower (official code)."""


@dataclass(frozen=True)
class TokenPackerOptions(ProjectorOptions):
    """Coarse queries attend to the multi-level features of the s x s cells under them."""

    levels: tuple[int, ...] | None = described(
        None,
        "tower layers whose features are the keys and values (0 = embeddings)",
        source="official code",
        minimum=0,
        default_note="{12, 16, 22, 23} of 24; the same fractions of other depths (ours)",
    )
    heads: int = described(8, "attention heads; must divide the tower's width", source="official code", minimum=1)

    def resolve(self, shape: Shape) -> TokenPackerOptions:
        return dataclasses.replace(self, levels=self.levels or levels_at(shape.tower_depth, TOKENPACKER_LEVELS))

    def reads(self, shape: Shape) -> tuple[Level, ...]:
        return tuple({shape.select_layer, *(self.levels or ())})

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        return (
            *layer_faults("levels", self.levels, shape.tower_depth, "the vision tower"),
            *head_faults(self.heads, shape.tower_width, "the vision tower's width"),
        )


SPEC = MethodSpec(
    name="tokenpacker",
    options=TokenPackerOptions,
    version=1,
    summary="pooled queries attend to the multi-level features of the cells under them",
    source="TokenPacker, arXiv 2407.02392",
    link="https://arxiv.org/abs/2407.02392",
    details=(
        ("official code", "all of the computation: norms, biases, initialisation, one attention per s x s window"),
        ("ours", "any tower width and number of levels (the official sizes are fixed); s = 1 and s > 4"),
    ),
    module="vr_eval.methods.tokenpacker.module",
    cls="TokenPacker",
)
