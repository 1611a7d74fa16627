"""Training samples for a vision tower that learns: images go through it in every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch.utils.data import Dataset
from transformers import BaseImageProcessor

from vr_eval.config.cell import Cell
from vr_eval.training.conversation import Encoded
from vr_eval.training.data import ConversationDataset


@dataclass(frozen=True)
class PixelDataset(Dataset[dict[str, Any]]):
    """One conversation per image: `samples[i]` is about `images[i]`, which is processed when it is asked for."""

    samples: Sequence[Encoded]
    images: Sequence[Image.Image]
    processor: BaseImageProcessor

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        pixels = self.processor([self.images[index].convert("RGB")], return_tensors="pt")["pixel_values"][0]
        return {"input_ids": sample.input_ids, "labels": sample.labels, "pixel_values": pixels}


def on_pixels(dataset: ConversationDataset, cell: Cell, processor: BaseImageProcessor) -> PixelDataset:
    """The same conversations of `cell`, over its images instead of features of a frozen tower."""
    from vr_eval.micro.corpus import training_corpus

    images = training_corpus(cell.recipe.images, cell.recipe.questions).images
    return PixelDataset(dataset.samples, images, processor)
