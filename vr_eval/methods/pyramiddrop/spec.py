"""PyramidDrop: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vr_eval.catalog.fields import described
from vr_eval.methods.options import Fault, ReductionOptions, Shape, layer_faults, levels_at
from vr_eval.methods.spec import MethodSpec

_OF_24 = (6, 12, 18)
"""Layers 8, 16 and 24 of 32, as parts of 24."""


@dataclass(frozen=True)
class PyramidDropOptions(ReductionOptions):
    """Vision tokens are dropped stage by stage, those that the end of the instruction attends to least."""

    layers: tuple[int, ...] | None = described(
        None,
        "decoder layers in front of which tokens are dropped",
        source="official code",
        default_note="a quarter, a half and three quarters down the decoder: 8, 16, 24 of 32",
        minimum=1,
    )
    ratios: tuple[float, ...] = described(
        (0.5, 0.25, 0.125),
        "part of each image's first vision tokens that is left behind each of them",
        source="paper",
        above=0,
        maximum=1,
    )
    positions: str = described(
        "renumbered",
        "what stays is numbered without gaps, or keeps its position ids (original)",
        source="official code",
        choices=("renumbered", "original"),
    )

    def places(self) -> tuple[int, ...]:
        assert self.layers is not None
        return self.layers

    def resolve(self, shape: Shape) -> PyramidDropOptions:
        return self if self.layers is not None else replace(self, layers=levels_at(shape.decoder_depth, _OF_24))

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        found = layer_faults("layers", self.layers, shape.decoder_depth - 1, "the decoder")
        layers = self.resolve(shape).places()
        if len(self.ratios) != len(layers):
            message = f"{len(self.ratios)} ratios for {len(layers)} layers"
            found = (*found, Fault("ratios", message, "one for each of the layers"))
        if list(self.ratios) != sorted(self.ratios, reverse=True):
            found = (*found, Fault("ratios", "more tokens would be left than there are", "none above the one before"))
        return found


SPEC = MethodSpec(
    name="pyramiddrop",
    options=PyramidDropOptions,
    version=1,
    summary="drops vision tokens stage by stage, the deeper the more",
    source="PyramidDrop, arXiv 2410.17247",
    link="https://arxiv.org/abs/2410.17247",
    details=(
        ("official code", "ranked by what the layer that follows would attend to from the prompt's last row"),
        ("official code", "a share of the first count is rounded down"),
        ("ours", "batches, several images (each by itself), grouped-query attention; at least 1 token of an image"),
    ),
    module="vr_eval.methods.pyramiddrop.module",
    cls="PyramidDrop",
    trainable=False,
)
