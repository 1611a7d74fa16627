"""Options of every method, with their defaults and where each default comes from.

An option that is ``None`` stands for a rule that depends on the backbone; ``resolve`` puts the rule's result in its
place, so that "the default" and the same numbers written out are one configuration with one identity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from vr_eval.config.fields import described

TOKENPACKER_LEVELS = (12, 16, 22, 23)
"""Hidden states of a 24-layer tower (official code)."""
VISION_REMEMBER_LEVELS = (13, 18, 23)
"""Hidden states of a 24-layer tower (paper)."""

OptionsT = TypeVar("OptionsT", bound="Options")


class Shape(Protocol):
    """What options need to know about a backbone (``BackboneSpec`` has it all)."""

    @property
    def grid(self) -> int: ...
    @property
    def tower_depth(self) -> int: ...
    @property
    def tower_width(self) -> int: ...
    @property
    def decoder_depth(self) -> int: ...
    @property
    def decoder_width(self) -> int: ...


@dataclass(frozen=True)
class Fault:
    """An option that does not fit a backbone: which one, why, and what would fit."""

    option: str
    message: str
    allowed: str


@dataclass(frozen=True)
class Options:
    """Base of all options; the methods below are overridden where a value depends on the backbone."""

    def resolve(self: OptionsT, shape: Shape) -> OptionsT:
        """The same options with every ``None`` replaced by what it stands for on this backbone."""
        return self

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        """What does not fit this backbone; empty if everything does."""
        return ()


@dataclass(frozen=True)
class MLPOptions(Options):
    """Every patch becomes a vision token: Linear, then (GELU, Linear) ``depth - 1`` times."""

    depth: int = described(2, "linear layers; 2 is mlp2x_gelu", source="official code", minimum=1, maximum=8)


@dataclass(frozen=True)
class AvgPoolOptions(Options):
    """The mean over each s x s cell of the features, then an MLP."""

    depth: int = described(2, "linear layers of the MLP; 2 is mlp2x_gelu", minimum=1, maximum=8)


@dataclass(frozen=True)
class PixelShuffleOptions(Options):
    """Each s x s cell of the features onto the channels, then an MLP."""

    depth: int = described(2, "linear layers of the MLP; 2 is mlp2x_gelu", source="official code", minimum=1, maximum=8)


@dataclass(frozen=True)
class TokenPackerOptions(Options):
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

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        return (
            *_layer_faults("levels", self.levels, shape.tower_depth, "the vision tower"),
            *_head_faults(self.heads, shape.tower_width, "the vision tower's width"),
        )


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
            *_layer_faults("levels", self.levels, shape.tower_depth, "the vision tower"),
            *_layer_faults("layers", self.layers, shape.decoder_depth - 1, "the decoder"),
            *_head_faults(self.heads, shape.decoder_width, "the decoder's width"),
        ]
        if self.halo >= shape.grid:
            message = f"a halo of {self.halo} reaches past the whole {shape.grid}x{shape.grid} patch grid"
            faults.append(Fault("halo", message, f"0 to {shape.grid - 1}"))
        elif self.halo and self.scope == "global":
            faults.append(Fault("halo", "a halo has no effect with scope: global", "0"))
        return tuple(faults)


@dataclass(frozen=True)
class RandomOptions(Options):
    """As many vision tokens as FastV keeps, at random: what FastV's choice is worth."""

    layer: int = described(2, "K: decoder layers from K on see only what is kept", minimum=1)
    keep_ratio: float = described(0.5, "part of a sample's vision tokens that stays", above=0, maximum=1)
    seed: int = described(0, "seed of the draw, beside the sample's own content", minimum=0)

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        return _pruning_faults(self.layer, shape)


@dataclass(frozen=True)
class FastVOptions(Options):
    """The vision tokens that get the most attention in layer K - 1 go on from layer K."""

    layer: int = described(2, "K: decoder layers from K on see only what is kept", source="official code", minimum=1)
    keep_ratio: float = described(0.5, "part of a sample's vision tokens that stays", above=0, maximum=1)
    query: str = described(
        "last",
        "whose attention ranks: the prompt's last row (the official code) or the mean of all rows (the paper's words)",
        source="official code",
        choices=("last", "mean"),
    )
    mode: str = described(
        "drop",
        "drop: later layers hold a shorter sequence and cache; mask: they hold all of it, for checks",
        source="official code",
        choices=("drop", "mask"),
    )

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        return _pruning_faults(self.layer, shape)


def levels_at(depth: int, of_24: Sequence[int]) -> tuple[int, ...]:
    """Hidden states of a tower of ``depth`` layers at the depths that ``of_24`` has in one of 24 layers (ours).

    Rounded half up, sorted, each once; a tower of 24 layers gives ``of_24`` itself.
    """
    return tuple(sorted({(2 * layer * depth + 24) // 48 for layer in of_24}))


def insertion_layers(decoder_depth: int) -> tuple[int, ...]:
    """Decoder layers after which a refusion module stands: evenly spaced over the first two thirds (ours).

    4 of them for 24 layers or more, else one for every 6 layers, at least 2 (1 in a decoder of 2 layers or fewer).
    24 layers give (0, 5, 10, 15), 4 layers give (0, 2).
    """
    last = max(0, (4 * decoder_depth - 3) // 6)  # 2/3 of the depth, minus 1, rounded half up
    count = 4 if decoder_depth >= 24 else max(2, round(decoder_depth / 6))
    gaps = min(count - 1, last)
    return tuple((2 * last * i + gaps) // (2 * gaps) for i in range(gaps + 1)) if gaps else (0,)


def _layer_faults(option: str, layers: tuple[int, ...] | None, last: int, of: str) -> tuple[Fault, ...]:
    if layers is None:
        return ()
    allowed = f"0 to {last}, rising, each once"
    outside = [layer for layer in layers if not 0 <= layer <= last]
    if outside:
        return (Fault(option, f"{of} has no layer {', '.join(map(str, outside))}", allowed),)
    if list(layers) != sorted(set(layers)):
        return (Fault(option, "layers must rise, each once", allowed),)
    return ()


def _head_faults(heads: int, width: int, of: str) -> tuple[Fault, ...]:
    if width % heads == 0:
        return ()
    fitting = ", ".join(str(n) for n in range(1, min(width, 64) + 1) if width % n == 0)
    return (Fault("heads", f"{heads} heads do not divide {of} of {width}", fitting),)


def _pruning_faults(layer: int, shape: Shape) -> tuple[Fault, ...]:
    if layer < shape.decoder_depth:
        return ()
    return (Fault("layer", f"the decoder has no layer {layer}", f"1 to {shape.decoder_depth - 1}"),)
