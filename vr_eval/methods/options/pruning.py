"""Options of the pruning methods (seam 3)."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.options.base import Fault, Options, Shape


@dataclass(frozen=True)
class RandomOptions(Options):
    """As many vision tokens as FastV keeps, at random: what FastV's choice is worth."""

    layer: int = described(2, "K: decoder layers from K on see only what is kept", minimum=1)
    keep_ratio: float = described(0.5, "part of a sample's vision tokens that stays", above=0, maximum=1)
    seed: int = described(0, "seed of the draw, beside the sample's own content", minimum=0, maximum=2**32 - 1)

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        return _pruning_faults(self.layer, shape)


@dataclass(frozen=True)
class DownsampleOptions(Options):
    """The whole image in fewer patches: no token is chosen, and none has to be."""

    factor: int = described(
        2, "s: the tower is given the image at 1/s of its side; must leave 2 or more patches a side, evenly", minimum=2
    )

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        fitting = downsample_factors(shape.grid)
        if self.factor in fitting:
            return ()
        message = f"a factor of {self.factor} does not divide the {shape.grid}x{shape.grid} patch grid into 2x2 or more"
        return (Fault("factor", message, ", ".join(map(str, fitting)) or "none on this grid"),)


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


def downsample_factors(grid: int) -> tuple[int, ...]:
    """Factors that leave a whole patch grid of 2 x 2 or more of a G x G one, rising: (2, 3, 4, 6) for G = 12."""
    return tuple(s for s in range(2, grid // 2 + 1) if grid % s == 0)


def _pruning_faults(layer: int, shape: Shape) -> tuple[Fault, ...]:
    if layer < shape.decoder_depth:
        return ()
    return (Fault("layer", f"the decoder has no layer {layer}", f"1 to {shape.decoder_depth - 1}"),)
