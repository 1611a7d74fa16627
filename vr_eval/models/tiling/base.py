"""What a scheme of cutting images into tiles has to say: its grid, its tokens in their order, its processor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from transformers import BaseImageProcessor, LlavaNextProcessor, LlavaOnevisionProcessor, PreTrainedTokenizerBase

from vr_eval.catalog.tiling import Tiling
from vr_eval.models.tiles import Placement, Size


@dataclass(frozen=True)
class Scheme(ABC):
    """How images are cut under one tiling, for a tower of ``tile_px`` pixels a side.

    A scheme that is new needs a description in vr_eval/catalog/tiling.py, a class of this kind, and its place in
    `SCHEMES`. Every tile is compressed by itself, so a token stands above cells of one tile.
    """

    tiling: Tiling
    tile_px: int

    learned_newline: ClassVar[bool] = False
    """Whether what stands between tokens of tiles is a parameter of the model, in place of the decoder's tokens."""
    marked: ClassVar[bool] = True
    """Whether anything stands between them; if not, each tile is as good as an image."""
    base_view: ClassVar[int] = -1
    """Where the base view is among the tiles of an image."""

    @abstractmethod
    def grid(self, size: Size) -> tuple[int, int]:
        """Rows and columns of the tiles of an image of `size` pixels."""

    @abstractmethod
    def placed(self, size: Size, side: int) -> Placement:
        """What `place` says of an image for the first time."""

    @abstractmethod
    def processor(
        self, images: BaseImageProcessor, tokenizer: PreTrainedTokenizerBase
    ) -> LlavaNextProcessor | LlavaOnevisionProcessor:
        """A processor that cuts images like this, for a tower whose own is `images`; it has to be `fitted`.

        Raises:
            InputError: The scheme is none for a tower and a decoder that are put together.
        """

    def place(self, size: Size, side: int) -> Placement:
        """The tokens of an image of `size` whose tiles have ``side * side`` of them each; `BASE_ONLY`: of one view."""
        return _kept(self, size, side)

    def shown_sizes(self, sizes: Sequence[Size]) -> list[Size]:
        """Sizes of the images of one sample, `BASE_ONLY` in place of those that are shown as base views."""
        return list(sizes)

    def mark_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
        """The decoder's tokens that end a row of tiles and separate tiles, where such stand there."""
        return None


@lru_cache(maxsize=4096)
def _kept(scheme: Scheme, size: Size, side: int) -> Placement:
    return scheme.placed(size, side)


def kept_settings(images: BaseImageProcessor) -> dict[str, Any]:
    """How an image processor makes pixels: what one for other shapes of images takes over."""
    return {name: getattr(images, name) for name in ("image_mean", "image_std", "resample")}
