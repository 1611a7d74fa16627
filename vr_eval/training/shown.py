"""How many tokens a model shows of an image, without the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vr_eval.models.features import size_of
from vr_eval.models.lvlm import LVLM
from vr_eval.models.tiles import Size
from vr_eval.models.tiling.base import Scheme


@dataclass(frozen=True)
class Shown:
    """How many tokens a model shows of images, without the model: it goes along to the processes that load samples."""

    scheme: Scheme | None
    tile_px: int
    side: int
    """Tokens along one side of a tile."""

    @classmethod
    def of(cls, model: LVLM) -> Shown:
        """As `model` shows them."""
        return cls(model.scheme, model.config.image_px, model.tokens_per_side)

    def sizes(self, images: Sequence[Image.Image]) -> list[Size]:
        """The sizes in which the images of one sample are shown; (0, 0): as a base view."""
        sizes = [size_of(image) for image in images]
        return sizes if self.scheme is None else self.scheme.shown_sizes(sizes)

    def tokens(self, size: Size) -> int:
        """Image tokens of an image that is shown in this size."""
        return self.side**2 if self.scheme is None else len(self.scheme.place(size, self.side).places)
