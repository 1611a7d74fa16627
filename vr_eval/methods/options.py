"""What all options share, and what those of each seam answer: the behaviour of a method that needs no tensor.

An option that is ``None`` stands for a rule that depends on the backbone; ``resolve`` puts the rule's result in its
place, so that "the default" and the same numbers written out are one configuration with one identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isqrt
from typing import ClassVar, Literal, Protocol, TypeVar

from vr_eval.catalog.fields import described, info_of
from vr_eval.methods.levels import Level

Seam = Literal["image", "projector", "refusion", "pruning"]

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
    """Base of all options, through the class of their seam; what depends on the backbone is overridden."""

    seam: ClassVar[Seam]

    def resolve(self: OptionsT, shape: Shape) -> OptionsT:
        """The same options with every ``None`` replaced by what it stands for on this backbone."""
        return self

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        """What does not fit this backbone; empty if everything does."""
        return ()

    def ratio_faults(self, shape: Shape, ratio: int) -> tuple[Fault, ...]:
        """What does not fit this backbone at a compression ratio of 1/ratio; empty if everything does."""
        return ()


@dataclass(frozen=True)
class ImageOptions(Options):
    """Options of a method that fills the image seam."""

    seam: ClassVar[Seam] = "image"

    def patches(self, grid: int) -> int:
        """Patches along one side that the tower sees of an image that would have G of them."""
        raise NotImplementedError


@dataclass(frozen=True)
class ProjectorOptions(Options):
    """Options of a projector."""

    seam: ClassVar[Seam] = "projector"
    keeps_grid: ClassVar[bool] = True
    """Its tokens stand over s x s cells of the patch grid, in row-major order."""
    any_grid: ClassVar[bool] = False
    """It takes features of any G x G that its stride divides, whatever grid it was trained on."""
    patch_mlp: ClassVar[bool] = False
    """It has an MLP on single patches of the selected layer (``Projector.patch_mlp``)."""

    @classmethod
    def ratios(cls, grid: int) -> tuple[int, ...]:
        """Ratios r that it can produce on a G x G patch grid, rising."""
        return square_ratios(grid)

    def reads(self, shape: Shape) -> tuple[Level, ...]:
        """Hidden states of the tower that it reads, for plans: by default the selected one. Of resolved options."""
        return (shape.select_layer,)

    def tokens(self, grid: int, ratio: int) -> int:
        """Vision tokens that it makes of G x G patches. Raises ValueError for a ratio that it cannot produce."""
        return (grid // stride(grid, ratio)) ** 2


@dataclass(frozen=True)
class RefusionOptions(Options):
    """Options of a refusion method."""

    seam: ClassVar[Seam] = "refusion"

    def reads(self, shape: Shape) -> tuple[Level, ...]:
        """Hidden states of the tower that it reads, for plans: by default its `levels`. Of resolved options."""
        return getattr(self, "levels", None) or (shape.select_layer,)

    def tower_level(self, level: Level) -> Level:
        """What the tower gives where a method asks for `level`: another level from a method that acts in the tower."""
        return level

    def needs_grid(self) -> bool:
        """Whether the projector's tokens have to stand over the patch grid."""
        return False

    def needs_patch_mlp(self) -> bool:
        """Whether it would share the projector's MLP on single patches."""
        return False


@dataclass(frozen=True)
class ReductionOptions(Options):
    """Options of a reduction."""

    seam: ClassVar[Seam] = "pruning"

    def places(self) -> tuple[int, ...]:
        """In front of which decoder layers it acts, rising; 0: before the first. Of resolved options."""
        raise NotImplementedError


@dataclass(frozen=True)
class PruningOptions(ReductionOptions):
    """Options of a reduction that keeps a share of the tokens from one decoder layer on."""

    layer: int = described(2, "K: decoder layers from K on see only what is kept", minimum=1)
    keep_ratio: float = described(0.5, "part of a sample's vision tokens that stays", above=0, maximum=1)

    def places(self) -> tuple[int, ...]:
        return (self.layer,)

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        if self.layer < shape.decoder_depth:
            return ()
        first = info_of(next(field for field in fields(self) if field.name == "layer")).minimum
        return (Fault("layer", f"the decoder has no layer {self.layer}", f"{first} to {shape.decoder_depth - 1}"),)


def stride(grid: int, ratio: int) -> int:
    """Linear compression s of a ratio r = s * s on a G x G patch grid.

    Raises:
        ValueError: ``ratio`` is no square, or s does not divide ``grid``.
    """
    s = isqrt(ratio) if ratio > 0 else 0
    if s * s != ratio or s == 0 or grid % s:
        raise ValueError(f"ratio 1/{ratio} does not divide a {grid}x{grid} patch grid into square cells")
    return s


def square_ratios(grid: int) -> tuple[int, ...]:
    """Ratios r = s * s whose s divides a G x G patch grid, rising: (1, 4, 9, 16, 36, 144) for G = 12."""
    return tuple(s * s for s in range(1, grid + 1) if grid % s == 0)


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
