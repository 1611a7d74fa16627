"""Options of the refusion methods (seam 2)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import isqrt

from vr_eval.catalog.fields import described
from vr_eval.methods.options.base import Fault, Options, Shape, head_faults, layer_faults, levels_at

VISION_REMEMBER_LEVELS = (13, 18, 23)
"""Hidden states of a 24-layer tower (paper)."""
_CROPS = 4
"""DeepStack's number of crops (official code)."""


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
    """Stacks of high-resolution tokens are added to the vision tokens before layers of the decoder or of the tower."""

    start: int | None = described(
        None,
        "layer before which the first stack is added (0 = before the first layer)",
        source="official code",
        minimum=0,
        default_note="1, or 0 in a decoder of 4 layers or fewer, where the stacks would not fit (ours); in the tower "
        "half its layers (paper), or as late as the stacks fit (ours)",
    )
    interval: int = described(1, "layers from one stack to the next", source="official code", minimum=1)
    shared: bool = described(
        False, "project the stacks with the projector's own MLP (the official way), not with one of their own"
    )
    stacks: str = described(
        "grid",
        "what stacks are sampled from: the full patch grid, for equal tokens (grid), or crops of the enlarged image, "
        "the official model (crops)",
        source="paper",
        choices=("grid", "crops"),
        later=True,
    )
    crops: int = described(
        _CROPS,
        "with stacks: crops, how many: a square number, as the image is a square",
        source="official code",
        minimum=4,
        later=True,
    )
    place: str = described(
        "decoder",
        "layers before which stacks are added: the decoder's, or the vision tower's (DeepStack-V)",
        source="paper",
        choices=("decoder", "tower"),
        later=True,
    )

    @property
    def side(self) -> int:
        """n: crops along each side of the image; 1 where stacks come from its own grid."""
        return isqrt(self.crops) if self.stacks == "crops" else 1

    def count(self, ratio: int) -> int:
        """How many stacks there are at a compression ratio of 1/ratio, which counts in the decoder only."""
        return self.side**2 * (1 if self.place == "tower" else ratio)

    def resolve(self, shape: Shape) -> DeepStackOptions:
        start = int(shape.decoder_depth > 4)
        if self.place == "tower":
            latest = shape.select_layer - 1 - (self.count(1) - 1) * self.interval
            start = max(0, min(shape.tower_depth // 2, latest))
        return dataclasses.replace(self, start=start if self.start is None else self.start)

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        if isqrt(self.crops) ** 2 != self.crops:
            message = f"{self.crops} crops do not cut a square image into squares"
            return (Fault("crops", message, "4, 9, 16 or another square number"),)
        faults = []
        if self.stacks == "grid" and self.crops != _CROPS:
            faults.append(Fault("crops", "a number of crops has no effect with stacks: grid", str(_CROPS)))
        if self.place == "decoder":
            return tuple(faults)
        if self.stacks == "grid":
            message = "the tower sees the full patch grid already: only crops have more to add there"
            faults.append(Fault("stacks", message, "crops"))
        if self.shared:
            message = "there is nothing to project with place: tower, so no MLP can be shared"
            faults.append(Fault("shared", message, "false"))
        if faults:
            return tuple(faults)
        last = f"the tower, of which {shape.select_layer} layers lead to the features that are read"
        return self._too_late(shape, 1, shape.select_layer, last)

    def ratio_faults(self, shape: Shape, ratio: int) -> tuple[Fault, ...]:
        if self.place == "tower":
            return ()
        depth = shape.decoder_depth
        return self._too_late(shape, ratio, depth, f"a decoder that has {depth} layers, 0 to {depth - 1}")

    def _too_late(self, shape: Shape, ratio: int, layers: int, of: str) -> tuple[Fault, ...]:
        """What is wrong if the last stack comes after layer ``layers - 1``."""
        start, count = self.resolve(shape).start or 0, self.count(ratio)
        last = start + (count - 1) * self.interval
        if last < layers:
            return ()
        at = "" if self.place == "tower" else f"at 1/{ratio} "
        message = f"{at}the last of {count} stacks would be added before layer {last} of {of}"
        latest = layers - 1 - (count - 1) * self.interval
        if latest >= 0:
            return (Fault("start", message, f"0 to {latest}"),)
        fitting = (1 + (layers - 1) // self.interval) // self.side**2
        if self.place == "tower" or fitting == 0:
            return (Fault("crops", message, f"no more than {1 + (layers - 1) // self.interval} with this interval"),)
        with_crops = f" and {self.crops} crops" if self.side > 1 else ""
        return (Fault("interval", message, f"a ratio of at most 1/{fitting} with this interval{with_crops}"),)


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
