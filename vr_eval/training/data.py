"""Training samples over a frozen tower: its features are computed once, kept on disk and shared by all cells."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from tqdm import tqdm

from vr_eval.methods.levels import Level
from vr_eval.models.lvlm import IGNORE
from vr_eval.training.conversation import Encoded

Encoder = Callable[[Sequence[Any], tuple[Level, ...]], Tensor]
"""Images and tower levels to hidden states ``(M, G*G, len(levels), D)``."""


def cached_features(
    folder: Path, levels: tuple[Level, ...], images: Sequence[Any], encode: Encoder, batch: int = 64
) -> list[NDArray[np.float16]]:
    """Tower features of `images`, one memory-mapped ``(n, G*G, D)`` float16 array per level, made if absent.

    The folder belongs to one tower and one list of images. Arrays are written under another name and renamed when
    complete, so that an interrupted run leaves no half array.
    """
    missing = tuple(level for level in levels if not (folder / f"level{level}.npy").exists())
    if missing:
        if not images:
            raise ValueError("no images to encode")
        folder.mkdir(parents=True, exist_ok=True)
        partial = {level: folder / f"level{level}.{os.getpid()}.partial" for level in missing}
        arrays: dict[Level, np.memmap[Any, np.dtype[np.float16]]] = {}
        for start in tqdm(range(0, len(images), batch), desc="vision features", unit="batch", disable=None):
            with torch.inference_mode():
                features = encode(images[start : start + batch], missing).half().numpy()
            for place, level in enumerate(missing):
                part = features[:, :, place]
                if level not in arrays:
                    shape = (len(images), *part.shape[1:])
                    arrays[level] = np.lib.format.open_memmap(partial[level], mode="w+", dtype=np.float16, shape=shape)
                arrays[level][start : start + len(part)] = part
        for level, array in arrays.items():
            array.flush()
            partial[level].replace(folder / f"level{level}.npy")
    return [np.load(folder / f"level{level}.npy", mmap_mode="r") for level in levels]


@dataclass(frozen=True)
class ConversationDataset(Dataset[dict[str, Any]]):
    """One conversation per image: `samples[i]` is about row i of every level's features ``(n, G*G, D)``."""

    samples: Sequence[Encoded]
    features: Sequence[NDArray[np.float16]]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        features = np.stack([level[index] for level in self.features], axis=1)  # (G*G, L, D)
        return {"input_ids": sample.input_ids, "labels": sample.labels, "features": features}


def collate(samples: Sequence[dict[str, Any]], pad_token_id: int) -> dict[str, Tensor]:
    """A right-padded batch: ids, mask and labels ``(B, S)``, and float32 images of the samples.

    They are vision features ``(B, G*G, L, D)``, or pixels ``(B, 3, height, width)`` where samples hold those.
    """

    if "pixel_values" in samples[0]:
        images = {"pixel_values": torch.stack([s["pixel_values"] for s in samples]).float()}
    else:
        images = {"vision_features": torch.from_numpy(np.stack([s["features"] for s in samples])).float()}
    return {**padded(samples, pad_token_id), **images}


def padded(samples: Sequence[dict[str, Any]], pad_token_id: int) -> dict[str, Tensor]:
    """Token ids, attention mask and labels ``(B, S)`` of samples, filled up on the right."""

    def filled(name: str, fill: int) -> Tensor:
        return pad_sequence([torch.tensor(s[name]) for s in samples], batch_first=True, padding_value=fill)

    lengths = torch.tensor([len(s["input_ids"]) for s in samples])
    ids = filled("input_ids", pad_token_id)
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
        "labels": filled("labels", IGNORE),
    }
