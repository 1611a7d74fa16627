"""How many tokens a model shows of an image, without the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vr_eval.catalog.backbone import Tiling
from vr_eval.models.features import size_of
from vr_eval.models.lvlm import LVLM
from vr_eval.models.tiles import Size, place, shown_sizes


@dataclass(frozen=True)
class Shown:
    """How many tokens a model shows of images, without the model: it goes along to the processes that load samples."""

    tiling: Tiling | None
    tile_px: int
    side: int
    """Tokens along one side of a tile."""

    @classmethod
    def of(cls, model: LVLM) -> Shown:
        """As `model` shows them."""
        side = model.grid // model.config.shapes.stride
        return cls(model.config.tiles, model.config.image_px, side)

    def sizes(self, images: Sequence[Image.Image]) -> list[Size]:
        """The sizes in which the images of one sample are shown; (0, 0): as a base view."""
        return shown_sizes(self.tiling, [size_of(image) for image in images])

    def tokens(self, size: Size) -> int:
        """Image tokens of an image that is shown in this size."""
        return self.side**2 if self.tiling is None else len(place(self.tiling, size, self.tile_px, self.side).places)
