"""Options of the projectors (seam 1)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.options.base import Fault, Options, Shape, head_faults, layer_faults, levels_at

TOKENPACKER_LEVELS = (12, 16, 22, 23)
"""Hidden states of a 24-layer tower (official code)."""


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
            *layer_faults("levels", self.levels, shape.tower_depth, "the vision tower"),
            *head_faults(self.heads, shape.tower_width, "the vision tower's width"),
        )


@dataclass(frozen=True)
class LDPv2Options(Options):
    """The MLP on every patch, average pooling, a depthwise convolution that adds positions: nothing to choose."""


@dataclass(frozen=True)
class ResamplerOptions(Options):
    """Learned queries attend to all patches; the tokens do not stand over cells of the grid."""

    heads: int | None = described(
        None,
        "attention heads; must divide the decoder's width",
        source="official code",
        minimum=1,
        default_note="one per 128 channels of the decoder, at least 8 (the minimum is ours)",
    )

    def resolve(self, shape: Shape) -> ResamplerOptions:
        return dataclasses.replace(self, heads=self.heads or max(8, shape.decoder_width // 128))

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        if shape.decoder_width % 4:
            message = f"a decoder of width {shape.decoder_width} has no 2D sine-cosine positions"
            return (Fault("heads", message, "a decoder whose width is a multiple of 4"),)
        return head_faults(self.resolve(shape).heads or 1, shape.decoder_width, "the decoder's width")


@dataclass(frozen=True)
class CAbstractorOptions(Options):
    """Convolution blocks, average pooling, convolution blocks, then an MLP."""

    depth: int = described(3, "blocks before and after the pooling", source="official code", minimum=1, maximum=16)
    mlp_depth: int = described(2, "linear layers of the MLP", source="official code", minimum=1, maximum=8)
    width: int | None = described(
        None,
        "channels of the blocks",
        source="official code",
        minimum=1,
        default_note="the tower's width (1024 for CLIP-L, as official)",
    )

    def resolve(self, shape: Shape) -> CAbstractorOptions:
        return dataclasses.replace(self, width=self.width or shape.tower_width)


@dataclass(frozen=True)
class SVAConnectorOptions(Options):
    """One learned query over every window of the patch grid, through cross-attention layers."""

    depth: int = described(3, "cross-attention layers", source="official code", minimum=1, maximum=16)
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

    def resolve(self, shape: Shape) -> SVAConnectorOptions:
        levels = self.levels or (shape.select_layer,)
        return dataclasses.replace(self, levels=levels, width=self.width or shape.tower_width)

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        return (
            *layer_faults("levels", self.levels, shape.tower_depth, "the vision tower"),
            *head_faults(self.heads, self.width or shape.tower_width, "the cross-attention's width"),
        )
