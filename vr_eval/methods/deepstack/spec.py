"""DeepStack: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import isqrt

from vr_eval.catalog.fields import described
from vr_eval.methods.levels import Level, StackedLevel, crop_levels
from vr_eval.methods.options import Fault, RefusionOptions, Shape
from vr_eval.methods.spec import MethodSpec

_CROPS = 4
"""DeepStack's number of crops (official code)."""


@dataclass(frozen=True)
class DeepStackOptions(RefusionOptions):
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

    def reads(self, shape: Shape) -> tuple[Level, ...]:
        if self.place == "tower":
            return ()
        return crop_levels(shape.select_layer, self.side) if self.side > 1 else (shape.select_layer,)

    def tower_level(self, level: Level) -> Level:
        """In the tower, hidden states behind the first stack are not those of the plain image."""
        start = self.start or 0
        if self.place == "tower" and isinstance(level, int) and level > start:
            return StackedLevel(level, self.side, start, self.interval)
        return level

    def needs_grid(self) -> bool:
        return self.place == "decoder"

    def needs_patch_mlp(self) -> bool:
        return self.shared

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


SPEC = MethodSpec(
    name="deepstack",
    options=DeepStackOptions,
    version=1,
    summary="high-resolution tokens, sampled into stacks, are added before layers of the decoder or of the tower",
    source="DeepStack, arXiv 2406.04334",
    link="https://arxiv.org/abs/2406.04334",
    details=(
        ("paper", "stacks: grid, an equal-token comparison: visible tokens g x g, stacks from the full G x G grid"),
        ("official code", "2d sampling, row-major stacks, a plain sum without gate or norm, at prefill only"),
        (
            "official code",
            "stacks: crops: the image is resized by bicubic interpolation and cut, every crop goes through the "
            "same tower; as many stacks as crops",
        ),
        (
            "ours",
            "the same square of crops for every image, cut from the processed square image; that of a backbone "
            "whose images are no larger than its tower's, like micro, is enlarged, which adds no information",
        ),
        (
            "ours",
            "place: tower: stacks are hidden states of the crops at the layer before which the first is added; "
            "nothing is trained there, the tower stays frozen",
        ),
        ("ours", "crops over compressed tokens: s * s stacks a crop, before as many decoder layers"),
        ("ours", "an MLP of its own over the high-resolution cells, as a compressing projector has none to share"),
    ),
    module="vr_eval.methods.deepstack.module",
    cls="DeepStack",
)
