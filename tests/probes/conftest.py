from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vr_eval.models.lvlm import LVLM
from vr_eval.models.methods import image_seam
from vr_eval.probes.extract import Subject
from vr_eval.testing.tiny import SIDE, prompt


class Noise:
    """A split of random images; image i is the same in every test."""

    def __init__(self, images: int, classes: int = 3, name: str = "noise") -> None:
        self.key = f"{name}-{images}"
        self.labels = {"class": np.arange(images) % classes}
        self.seen: list[int] = []

    def __len__(self) -> int:
        return len(self.labels["class"])

    def image(self, index: int) -> Image.Image:
        self.seen.append(index)
        values = np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3))
        return Image.fromarray(values.astype(np.uint8))


class Processor:
    """Pixels as they are, from -1 to 1."""

    def __call__(self, images: list[Image.Image], return_tensors: str) -> dict[str, Tensor]:
        values = np.stack([np.asarray(image) for image in images]).astype(np.float32)
        return {"pixel_values": torch.from_numpy(values).permute(0, 3, 1, 2) / 127.5 - 1}

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "plain"}


@pytest.fixture
def subject() -> Callable[..., Subject]:
    """A tiny model as it is probed."""

    def made(model: LVLM, tower: str = "tiny") -> Subject:
        processor: Any = SimpleNamespace(image_processor=Processor())
        return Subject(model, processor, tuple(prompt(model, 10, "image", 11, 12)), (tower, image_seam(model.config)))

    return made
