"""The seams of an LVLM that a method can fill, and what it is handed there.

    [image] -> vision tower -> [project] -> tokens -> decoder layer 0 .. i -> [inject] -> .. -> [reduce] -> .. -> text

An image method chooses what the tower is given. A projector turns `VisionFeatures` into vision tokens. A refusion
method changes the hidden states at vision positions between two decoder layers, at prefill only. A reduction leaves
fewer vision tokens to the layers behind it (methods/reduction.py). Methods know nothing of the decoder's code: they see
tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vr_eval.methods.levels import Level, in_order
from vr_eval.methods.options import ImageOptions


@dataclass(frozen=True)
class Shapes:
    """Sizes of a backbone that methods are built from."""

    grid: int
    """Patches along one side of the tower's grid (G)."""
    tower_width: int
    """Channels of a tower layer (D)."""
    tower_depth: int
    """Number of tower layers; hidden state 0 is the embedding output, hidden state `tower_depth` the last."""
    select_layer: int
    """The hidden state that single-level projectors read."""
    decoder_width: int
    """Channels of the decoder (H)."""
    decoder_depth: int
    """Number of decoder layers."""
    stride: int
    """Linear compression s; the compression ratio is 1/s**2."""


@dataclass(frozen=True)
class VisionFeatures:
    """Hidden states of the vision tower, class token dropped.

    `maps` is ``(M, G*G, len(levels), D)`` for M images (or tiles); `levels` names the hidden states it holds.
    """

    maps: Tensor
    levels: tuple[Level, ...]
    shared: dict[nn.Module, Any] = field(default_factory=dict, repr=False, compare=False)
    """What a module that two methods share has made of them; it is made once, and goes with them."""

    def level(self, level: Level) -> Tensor:
        """One hidden state, ``(M, G*G, D)``. Raises KeyError where it was not kept."""
        return self.maps[:, :, self._place(level)]

    def concat(self, levels: tuple[Level, ...]) -> Tensor:
        """Several hidden states side by side on channels, ``(M, G*G, len(levels)*D)``, in the order asked for."""
        return torch.cat([self.level(level) for level in levels], dim=-1)

    def stack(self, levels: tuple[Level, ...]) -> Tensor:
        """Several hidden states, ``(M, G*G, len(levels), D)``, in the order asked for."""
        return self.maps[:, :, [self._place(level) for level in levels]]

    def _place(self, level: Level) -> int:
        if level not in self.levels:
            raise KeyError(f"hidden state {level} was not kept; kept: {self.levels}")
        return self.levels.index(level)


@dataclass(frozen=True)
class VisionLayout:
    """Where the vision tokens of a batch stand, in reading order; methods see them image by image, or tile by tile.

    Of an image in tiles the decoder is shown a part of the tokens: padding is dropped. Methods get all places of every
    tile, zeros where no token is shown, and what they write there goes nowhere. Newline tokens are no vision tokens.
    """

    row: Tensor
    """Row of the batch, ``(T,)``."""
    column: Tensor
    """Position in the padded sequence, ``(T,)``."""
    images: int
    """M: images, or tiles."""
    per_image: int
    """N: places of every image or tile, in row-major order of the compressed grid."""
    place: Tensor | None = None
    """``(T,)`` place of every token among all M * N; None where each has its token, in order."""
    rows: Tensor | None = None
    """``(M,)`` row of the batch that each tile belongs to; None where `place` is."""

    def gather(self, hidden: Tensor) -> Tensor:
        """The hidden states ``(B, S, H)`` at vision positions, ``(M, N, H)``."""
        found = hidden[self.row, self.column]
        if self.place is not None:
            found = found.new_zeros(self.images * self.per_image, found.shape[-1]).index_put((self.place,), found)
        return found.view(self.images, self.per_image, -1)

    def scatter(self, hidden: Tensor, vision: Tensor) -> Tensor:
        """`hidden` ``(B, S, H)`` with `vision` ``(M, N, H)`` written at the vision positions; a new tensor."""
        written = vision.flatten(0, 1)
        if self.place is not None:
            written = written[self.place]
        return hidden.index_put((self.row, self.column), written.to(hidden))

    def row_of_image(self) -> Tensor:
        """The row of the batch that each image or tile belongs to, ``(M,)``."""
        return self.row.view(self.images, self.per_image)[:, 0] if self.rows is None else self.rows

    def left(self, index: Tensor, stays: Tensor, length: int) -> VisionLayout:
        """The layout of what a reduction left of sequences of `length` positions.

        Args:
            index: ``(B, L)`` where in the whole sequence each position's token stood; of a merged one, its home.
            stays: ``(B, L)`` bool, vision positions.
        """
        place = torch.full((len(index), length), -1, device=index.device)
        place[self.row, self.column] = (
            torch.arange(len(self.row), device=index.device) if self.place is None else self.place
        )
        found = place.gather(1, index).masked_fill(~stays, -1)
        row, column = (found >= 0).nonzero(as_tuple=True)
        return VisionLayout(row, column, self.images, self.per_image, found[row, column], self.row_of_image())

    def present(self) -> Tensor | None:
        """Which places have a token, ``(M, N)`` bool; None where all have."""
        if self.place is None:
            return None
        shown = torch.zeros(self.images * self.per_image, dtype=torch.bool, device=self.place.device)
        return shown.index_fill(0, self.place, True).view(self.images, self.per_image)


@dataclass(frozen=True)
class RefusionInput:
    """What every insertion point of one prefill is handed."""

    features: VisionFeatures
    layout: VisionLayout
    instruction: Tensor
    """``(B, S)`` bool: text tokens of the prompt before the first supervised token. Never an answer token."""
    prepared: Any = None
    """What `Refusion.prepare` returned for this prefill."""


class ImageMethod(nn.Module):
    """Seam 0. What the tower is given in place of the image that the processor made; it has no parameters."""

    def __init__(self, shapes: Shapes, options: ImageOptions) -> None:
        super().__init__()
        self.options = options

    def patches(self, grid: int) -> int:
        """Patches along one side that the tower sees of an image that would have G of them."""
        return self.options.patches(grid)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Processed images ``(M, 3, height, width)`` as others ``(M, 3, height', width')``, of `patches` a side."""
        raise NotImplementedError


class Projector(nn.Module):
    """Seam 1. ``forward(features) -> (M, N, H)`` vision tokens."""

    levels: tuple[int, ...]
    """The hidden states of the tower that it reads."""

    def forward(self, features: VisionFeatures) -> Tensor:
        raise NotImplementedError

    def patch_mlp(self) -> nn.Module | None:
        """The MLP ``D -> H`` that it applies to the selected layer's single cells, which DeepStack can share."""
        return None

    def reset_buffers(self) -> None:
        """Make the buffers that no checkpoint holds (again)."""

    def to_inference(self) -> None:
        """Merge what is constant after training, and drop what was merged. The outputs stay within 1e-4."""


class Refusion(nn.Module):
    """Seam 2. Looks at the vision features again after some decoder layers."""

    layers: tuple[int, ...]
    """After which decoder layers it acts, ascending; -1 is before the first. Empty if it acts in the vision tower."""
    levels: tuple[Level, ...]
    """The hidden states of the tower that it reads, of the image or of crops of it."""

    def share(self, projector: Projector) -> None:
        """Once, on construction: use modules of the projector where the official code has one for both.

        Parameters stay the projector's; a method that shares nothing overrides nothing.
        """

    def tower_level(self, level: Level) -> Level:
        """What the tower gives where a method asks for `level`: another level from a method that acts in the tower."""
        return level

    def prepare(self, features: VisionFeatures) -> Any:
        """What can be computed once per image for all insertion points (inference); None to compute it on the way."""
        return None

    def inject(self, point: int, hidden: Tensor, given: RefusionInput) -> Tensor:
        """Hidden states ``(B, S, H)`` after insertion point number `point`; only vision positions may differ."""
        raise NotImplementedError

    def reset_buffers(self) -> None:
        """Make the buffers that no checkpoint holds (again)."""

    def to_inference(self) -> None:
        """Merge what is constant after training, and drop what was merged. The outputs stay within 1e-4."""


def read_levels(projector: Projector, refusion: Refusion | None) -> tuple[Level, ...]:
    """The levels that the methods of a model ask for, each once, in order."""
    return in_order((*projector.levels, *(refusion.levels if refusion is not None else ())))


def tower_levels(projector: Projector, refusion: Refusion | None) -> tuple[Level, ...]:
    """What the tower gives for each of `read_levels`: the names that features are encoded and kept under."""
    asked = read_levels(projector, refusion)
    return asked if refusion is None else tuple(refusion.tower_level(level) for level in asked)
