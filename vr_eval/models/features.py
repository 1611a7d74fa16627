"""Tower features of images, through a store, so that all who share a vision tower encode each image once.

Images are encoded one by one, with their tiles as the batch: what the tower gives for an image must not depend on the
batch it came in, or on whether another cell had it encoded before. (On the CPU where this was measured, batches of 2 to
32 gave the embedded tower's features bit by bit and saved a tenth of its time; libraries choose other kernels for other
sizes elsewhere, above all on GPUs.) Nothing is rounded; results with and without the store are equal bit by bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import BaseImageProcessor

from vr_eval.config.cell import Cell
from vr_eval.methods.base import tower_levels
from vr_eval.methods.levels import Level, in_order
from vr_eval.methods.registry import NONE
from vr_eval.models.feature_store import FeatureStore
from vr_eval.models.lvlm import LVLM
from vr_eval.models.methods import image_seam, sketch
from vr_eval.models.reading import upright
from vr_eval.models.tiles import BASE_ONLY, Size

ENCODING_VERSION = 1
"""Raised by hand when an image's way through the tower computes something else: stored features are of a version."""
_UNRELATED = frozenset({"_name_or_path", "architectures", "dtype", "transformers_version"})
"""Entries of a tower's configuration that say where it came from, not what it computes."""


class ImageEncoder:
    """Images to the features that one model reads, through a store."""

    def __init__(self, model: LVLM, processor: BaseImageProcessor, store: FeatureStore) -> None:
        self.model, self.processor, self.store = model, processor, store
        self.tower = tower_id(model, processor)
        self.arithmetic = arithmetic(model)

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
        # The image seam is asked anew, as a cell may change it.
        source = f"{self.tower}, {self.arithmetic}, {image_seam(self.model.config)}"
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
        self.store.put(source, name, by_level)
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


def arithmetic(model: LVLM) -> str:
    """What equal weights may give other bits with: libraries, kernels, the kind of device. (Not the number of threads.)

    Features that another machine has kept are only found where they would have come out the same.
    """
    device = model.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    versions = [f"{library} {version(library)}" for library in ("torch", "torchvision", "transformers", "pillow")]
    attention = model.vision_tower.config._attn_implementation
    return f"encoding {ENCODING_VERSION}, {', '.join(versions)}, {device.type} {kind}, {attention}"


def levels_of(cell: Cell) -> tuple[Level, ...]:
    """The tower's hidden states that `cell` will read, without building its model."""

    def sketched(name: str) -> Any:
        return None if name == NONE else sketch(name, cell.spec, cell.ratio, cell.resolved(name))

    return tower_levels(sketched(cell.projector), sketched(cell.refusion))
