"""SVA: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.options import Fault, RefusionOptions, Shape
from vr_eval.methods.spec import MethodSpec
from vr_eval.methods.sva_connector.spec import SamplerOptions


@dataclass(frozen=True)
class SVAOptions(SamplerOptions, RefusionOptions):
    """Cross-attention layers of the Spatial Vision Aggregator between decoder layers."""

    start: int = described(0, "decoder layer after which the first one stands", source="official code", minimum=0)
    stride: int | None = described(
        None,
        "decoder layers from one to the next",
        source="official code",
        minimum=1,
        default_note="3, 4 and 7 of 32, 40 and 60 layers; a ninth of other depths, rounded up from two thirds (ours)",
    )
    count: int | None = described(
        None,
        "how many there are",
        source="official code",
        minimum=1,
        default_note="10, or as many as stand before the last decoder layer (9 of 60 layers)",
    )

    def resolve(self, shape: Shape) -> SVAOptions:
        stride = self.stride or max(1, (shape.decoder_depth + 3) // 9)
        fitting = 1 + max(0, shape.decoder_depth - 2 - self.start) // stride
        return dataclasses.replace(super().resolve(shape), stride=stride, count=self.count or min(10, fitting))

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder layers after which one stands; of resolved options."""
        return tuple(self.start + i * (self.stride or 1) for i in range(self.count or 0))

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        faults = [*super().faults(shape)]
        resolved = self.resolve(shape)
        last, allowed = resolved.layers[-1], shape.decoder_depth - 2
        if last > allowed:
            # What the last layer leaves at vision positions is read by nothing.
            message = f"one would stand after layer {last}, and only layers up to {allowed} have another one to read it"
            option = "start" if self.start > allowed else "count" if self.count else "stride"
            faults.append(Fault(option, message, f"start + (count - 1) * stride of at most {allowed}"))
        return tuple(faults)

    def needs_grid(self) -> bool:
        return True


SPEC = MethodSpec(
    name="sva",
    options=SVAOptions,
    version=1,
    summary="vision tokens look at the cells under them, between decoder layers",
    source="Cambrian-1, arXiv 2406.16860",
    link="https://arxiv.org/abs/2406.16860",
    details=(
        ("official code", "all of the computation; with sva_connector both read one projection of the tower"),
        ("ours", "a projection of the tower of its own with any other projector; gradients that reach it on a GPU"),
    ),
    module="vr_eval.methods.sva.module",
    cls="SVA",
)
