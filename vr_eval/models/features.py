"""Tower features of images, kept in memory so that cells which share a vision tower encode each image once.

Images are encoded one by one: what the tower gives for an image must not depend on the batch it came in, or on whether
another cell had it encoded before. Nothing is rounded; results with and without the store are equal bit by bit.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import BaseImageProcessor

from vr_eval.config.cell import Cell
from vr_eval.methods.base import tower_levels
from vr_eval.methods.levels import Level, in_order
from vr_eval.methods.registry import NONE
from vr_eval.models.lvlm import LVLM
from vr_eval.models.methods import image_seam, sketch
from vr_eval.models.reading import upright
from vr_eval.models.tiles import BASE_ONLY, Size

DEFAULT_BYTES = 2 * 1024**3

_log = logging.getLogger(__name__)
_Key = tuple[str, str, Level]
_UNRELATED = frozenset({"_name_or_path", "architectures", "dtype", "transformers_version"})
"""Entries of a tower's configuration that say where it came from, not what it computes."""


class FeatureStore:
    """Hidden states ``(tiles, G*G, D)`` by (tower and image method, image, level), on the CPU.

    The least recently used give way.

    Attributes:
        encoded: How many images towers have encoded for it.
    """

    def __init__(self, levels: Iterable[Level] = (), capacity_bytes: int = DEFAULT_BYTES) -> None:
        """`levels`: hidden states that any of its readers will want; they are all kept when an image is encoded."""
        self.levels = frozenset(levels)
        self.capacity_bytes = capacity_bytes
        self.held_bytes = 0
        self.encoded = 0
        self._kept: OrderedDict[_Key, Tensor] = OrderedDict()
        self._evicted = False

    def get(self, source: str, image: str, levels: Sequence[Level]) -> list[Tensor] | None:
        """One tensor ``(tiles, G*G, D)`` per level, or None unless all are there."""
        found = [self._kept.get((source, image, level)) for level in levels]
        if any(tensor is None for tensor in found):
            return None
        for level in levels:
            self._kept.move_to_end((source, image, level))
        return [tensor for tensor in found if tensor is not None]

    def put(self, source: str, image: str, level: Level, hidden: Tensor) -> None:
        """Keep one hidden state, if the store is large enough for it."""
        size = hidden.numel() * hidden.element_size()
        key = (source, image, level)
        if size > self.capacity_bytes or key in self._kept:
            return
        self._kept[key] = hidden
        self.held_bytes += size
        while self.held_bytes > self.capacity_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.held_bytes -= oldest.numel() * oldest.element_size()
            if not self._evicted:
                self._evicted = True
                _log.warning(
                    "the feature store is full at %.1f GiB: some images will be encoded again for the next cell",
                    self.capacity_bytes / 1024**3,
                )


class ImageEncoder:
    """Images to the features that one model reads, through a store."""

    def __init__(self, model: LVLM, processor: BaseImageProcessor, store: FeatureStore) -> None:
        self.model, self.processor, self.store = model, processor, store
        self.tower = tower_id(model, processor)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image]) -> Tensor:
        """``(M, G*G, len(feature_levels), D)`` on the model's device, as `LVLM.encode_images` gives them.

        Of a model that cuts images into tiles, all tiles of the first image, then those of the next.
        """
        return torch.cat([self._features(image, size_of(image)) for image in images]).to(self.model.device)

    @torch.no_grad()
    def read(self, samples: Sequence[Sequence[Image]]) -> dict[str, Tensor]:
        """Arguments of `generate` that stand for the images of each sample of a batch; none where there are none."""
        shown, features = [], []
        for images in samples:
            sizes = self.model.shown_sizes([size_of(image) for image in images])
            features += [self._features(image, size) for image, size in zip(images, sizes, strict=True)]
            shown += sizes
        if not features:
            return {}
        given = {"vision_features": torch.cat(features).to(self.model.device)}
        return given if self.model.scheme is None else {**given, "image_sizes": torch.tensor(shown)}

    def _features(self, image: Image, size: Size) -> Tensor:
        """``(tiles, G*G, len(feature_levels), D)`` on the CPU."""
        return torch.stack(self._encode(image, size, self.model.feature_levels), dim=2)

    def _encode(self, image: Image, size: Size, levels: Sequence[Level]) -> list[Tensor]:
        image = upright(image)
        name = image_id(image)
        source = f"{self.tower}, {image_seam(self.model.config)}"  # asked anew, as a cell may change it
        if size == BASE_ONLY:
            source += ", base view"
        found = self.store.get(source, name, levels)
        if found is not None:
            return found
        # What other cells read, they read of the image itself, not of what fills the image seam makes of it.
        others = self.store.levels if self.model.image_method is None else ()
        wanted = in_order({*others, *levels})
        tiles = processed(self.processor, image, size)
        hidden = self.model.encode_images(tiles.to(self.model.device), wanted).cpu()
        self.store.encoded += 1
        # A level's own copy: a view would keep every level in memory for as long as one of them is kept.
        by_level = {level: hidden[:, :, place].clone() for place, level in enumerate(wanted)}
        for level, tensor in by_level.items():
            self.store.put(source, name, level, tensor)
        return [by_level[level] for level in levels]


def processed(processor: BaseImageProcessor, image: Image, size: Size) -> Tensor:
    """Pixels ``(tiles, 3, height, width)`` of an upright image that is shown in `size`: its tiles, or one view."""
    if hasattr(processor, "crop_to_patches"):  # it cuts every image by its shape alone, unless told not to
        tiles: Tensor = processor([image], crop_to_patches=size != BASE_ONLY, return_tensors="pt")["pixel_values"]
        return tiles
    # An image processor pads the base view of an image to a square only where there are several.
    given = [[image, image]] if size == BASE_ONLY else [image]
    pixels: Tensor = processor(given, return_tensors="pt")["pixel_values"]
    return pixels[:1] if pixels.dim() == 4 else pixels[0]


def size_of(image: Image) -> Size:
    """Height and width of an image."""
    return image.height, image.width


def image_id(image: Image) -> str:
    """SHA-256 of an RGB image's pixels and size."""
    digest = hashlib.sha256(f"{image.width}x{image.height}\0".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def tower_id(model: LVLM, processor: BaseImageProcessor) -> str:
    """SHA-256 over the tower's weights, its configuration and the image processor's: equal features, equal name."""
    config = {k: v for k, v in model.vision_tower.config.to_dict().items() if k not in _UNRELATED}
    described = json.dumps([processor.to_dict(), config], sort_keys=True, default=str)
    digest = hashlib.sha256(described.encode())
    for name, tensor in sorted(model.vision_tower.state_dict().items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def levels_of(cell: Cell) -> tuple[Level, ...]:
    """The tower's hidden states that `cell` will read, without building its model."""

    def sketched(name: str) -> Any:
        return None if name == NONE else sketch(name, cell.spec, cell.ratio, cell.resolved(name))

    return tower_levels(sketched(cell.projector), sketched(cell.refusion))
