"""What all options share: faults, rules that depend on a backbone, and helpers for both.

An option that is ``None`` stands for a rule that depends on the backbone; ``resolve`` puts the rule's result in its
place, so that "the default" and the same numbers written out are one configuration with one identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

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
    def select_layer(self) -> int: ...
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

    def ratio_faults(self, shape: Shape, ratio: int) -> tuple[Fault, ...]:
        """What does not fit this backbone at a compression ratio of 1/ratio; empty if everything does."""
        return ()


def levels_at(depth: int, of_24: Sequence[int]) -> tuple[int, ...]:
    """Hidden states of a tower of ``depth`` layers at the depths that ``of_24`` has in one of 24 layers (ours).

    Rounded half up, sorted, each once; a tower of 24 layers gives ``of_24`` itself.
    """
    return tuple(sorted({(2 * layer * depth + 24) // 48 for layer in of_24}))


def layer_faults(option: str, layers: tuple[int, ...] | None, last: int, of: str) -> tuple[Fault, ...]:
    """What is wrong with a list of layers 0 to ``last`` of ``of``, e.g. "the decoder"."""
    if layers is None:
        return ()
    allowed = f"0 to {last}, rising, each once"
    outside = [layer for layer in layers if not 0 <= layer <= last]
    if outside:
        return (Fault(option, f"{of} has no layer {', '.join(map(str, outside))}", allowed),)
    if list(layers) != sorted(set(layers)):
        return (Fault(option, "layers must rise, each once", allowed),)
    return ()


def head_faults(heads: int, width: int, of: str) -> tuple[Fault, ...]:
    """Whether a number of attention heads divides a width; ``of`` names that width."""
    if width % heads == 0:
        return ()
    fitting = ", ".join(str(n) for n in range(1, min(width, 64) + 1) if width % n == 0)
    return (Fault("heads", f"{heads} heads do not divide {of} of {width}", fitting),)


def layer_fault(layer: int, shape: Shape) -> tuple[Fault, ...]:
    """Whether the decoder has a layer before which a pruning method acts, with one below it to look at."""
    if layer < shape.decoder_depth:
        return ()
    return (Fault("layer", f"the decoder has no layer {layer}", f"1 to {shape.decoder_depth - 1}"),)
