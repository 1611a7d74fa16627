"""SVAConnector: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

from vr_eval.catalog.fields import described
from vr_eval.methods.levels import Level
from vr_eval.methods.options import Fault, Options, ProjectorOptions, Shape, head_faults, layer_faults
from vr_eval.methods.spec import MethodSpec

SamplerT = TypeVar("SamplerT", bound="SamplerOptions")


@dataclass(frozen=True)
class SamplerOptions(Options):
    """What a cross-attention layer of the Spatial Vision Aggregator is told, here and between decoder layers."""

    levels: tuple[int, ...] | None = described(
        None,
        "tower layers that are looked at, each like a tower of its own",
        source="official code",
        minimum=0,
        default_note="the selected layer alone",
    )
    width: int | None = described(
        None,
        "channels of the cross-attention",
        source="official code",
        minimum=1,
        default_note="the tower's width (1024 for CLIP-L, as official)",
    )
    heads: int = described(16, "attention heads; must divide the width", source="official code", minimum=1)

    def resolve(self: SamplerT, shape: Shape) -> SamplerT:
        levels = self.levels or (shape.select_layer,)
        return dataclasses.replace(self, levels=levels, width=self.width or shape.tower_width)

    def reads(self, shape: Shape) -> tuple[Level, ...]:
        return self.levels or (shape.select_layer,)

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        return (
            *layer_faults("levels", self.levels, shape.tower_depth, "the vision tower"),
            *head_faults(self.heads, self.width or shape.tower_width, "the cross-attention's width"),
        )


@dataclass(frozen=True)
class SVAConnectorOptions(SamplerOptions, ProjectorOptions):
    """One learned query over every window of the patch grid, through cross-attention layers."""

    depth: int = described(3, "cross-attention layers", source="official code", minimum=1, maximum=16)


SPEC = MethodSpec(
    name="sva_connector",
    options=SVAConnectorOptions,
    version=1,
    summary="one learned query looks at the cells of each window, through three layers",
    source="Cambrian-1, arXiv 2406.16860",
    link="https://arxiv.org/abs/2406.16860",
    details=(
        ("official code", "all of the computation and its initialisation; one group of queries"),
        ("ours", "one tower, whose layers can stand for several; no newline token after a row"),
    ),
    module="vr_eval.methods.sva_connector.module",
    cls="SVAConnector",
)
