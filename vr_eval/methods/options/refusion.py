"""Options of the refusion methods (seam 2)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vr_eval.config.fields import described
from vr_eval.methods.options.base import Fault, Options, Shape, head_faults, layer_faults, levels_at

VISION_REMEMBER_LEVELS = (13, 18, 23)
"""Hidden states of a 24-layer tower (paper)."""


@dataclass(frozen=True)
class VisionRememberOptions(Options):
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


@dataclass(frozen=True)
class DeepStackOptions(Options):
    """Stacks of high-resolution tokens, sampled from the full patch grid, are added before decoder layers."""

    start: int | None = described(
        None,
        "decoder layer before which the first stack is added (0 = before the first layer)",
        source="official code",
        minimum=0,
        default_note="1; 0 in a decoder of 4 layers or fewer, where the s * s stacks would not fit (ours)",
    )
    interval: int = described(1, "decoder layers from one stack to the next", source="official code", minimum=1)
    shared: bool = described(
        False, "project the stacks with the projector's own MLP (the official way), not with one of their own"
    )

    def resolve(self, shape: Shape) -> DeepStackOptions:
        start = self.start if self.start is not None else int(shape.decoder_depth > 4)
        return dataclasses.replace(self, start=start)

    def ratio_faults(self, shape: Shape, ratio: int) -> tuple[Fault, ...]:
        start = self.resolve(shape).start or 0
        last = start + (ratio - 1) * self.interval
        if last < shape.decoder_depth:
            return ()
        message = (
            f"at 1/{ratio} the last of {ratio} stacks would be added before layer {last} of a decoder that has "
            f"{shape.decoder_depth} layers, 0 to {shape.decoder_depth - 1}"
        )
        latest = shape.decoder_depth - 1 - (ratio - 1) * self.interval
        if latest < 0:
            fitting = 1 + (shape.decoder_depth - 1) // self.interval
            return (Fault("interval", message, f"a ratio of at most 1/{fitting} with this interval"),)
        return (Fault("start", message, f"0 to {latest}"),)


@dataclass(frozen=True)
class SVAOptions(Options):
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

    def resolve(self, shape: Shape) -> SVAOptions:
        stride = self.stride or max(1, (shape.decoder_depth + 3) // 9)
        fitting = 1 + max(0, shape.decoder_depth - 2 - self.start) // stride
        return dataclasses.replace(
            self,
            stride=stride,
            count=self.count or min(10, fitting),
            levels=self.levels or (shape.select_layer,),
            width=self.width or shape.tower_width,
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder layers after which one stands; of resolved options."""
        return tuple(self.start + i * (self.stride or 1) for i in range(self.count or 0))

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        faults = [
            *layer_faults("levels", self.levels, shape.tower_depth, "the vision tower"),
            *head_faults(self.heads, self.width or shape.tower_width, "the cross-attention's width"),
        ]
        resolved = self.resolve(shape)
        last, allowed = resolved.layers[-1], shape.decoder_depth - 2
        if last > allowed:
            # What the last layer leaves at vision positions is read by nothing.
            message = f"one would stand after layer {last}, and only layers up to {allowed} have another one to read it"
            option = "start" if self.start > allowed else "count" if self.count else "stride"
            faults.append(Fault(option, message, f"start + (count - 1) * stride of at most {allowed}"))
        return tuple(faults)


def insertion_layers(decoder_depth: int) -> tuple[int, ...]:
    """Decoder layers after which a refusion module stands: evenly spaced over the first two thirds (ours).

    4 of them for 24 layers or more, else one for every 6 layers, at least 2 (1 in a decoder of 2 layers or fewer).
    24 layers give (0, 5, 10, 15), 4 layers give (0, 2).
    """
    last = max(0, (4 * decoder_depth - 3) // 6)  # 2/3 of the depth, minus 1, rounded half up
    count = 4 if decoder_depth >= 24 else max(2, round(decoder_depth / 6))
    gaps = min(count - 1, last)
    return tuple((2 * last * i + gaps) // (2 * gaps) for i in range(gaps + 1)) if gaps else (0,)
