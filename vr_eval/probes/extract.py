"""Features of one model on one split, through the store: shard by shard, one forward pass per image for all taps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vr_eval.adapters.answering import prepare
from vr_eval.methods.levels import Level, in_order
from vr_eval.models.features import processed, tower_id
from vr_eval.models.lvlm import LVLM
from vr_eval.models.methods import image_seam
from vr_eval.models.processor import Processor
from vr_eval.models.tiles import BASE_ONLY
from vr_eval.probes.data.base import Split
from vr_eval.probes.keys import tap_keys
from vr_eval.probes.store import SHARD, Features, TapStore
from vr_eval.probes.taps import Inside, Note, Pooled, encode, levels_read, run_tapped

Place = tuple[str, str]
"""A tap and a pool."""


@dataclass(frozen=True)
class Subject:
    """A model that is probed, and how it is asked.

    Attributes:
        model: In its inference version, on its device.
        processor: Its processor.
        prompt: Token ids of the prompt, every vision token spelled out.
    """

    model: LVLM
    processor: Processor
    prompt: tuple[int, ...]
    tower: tuple[str, str]
    """Equal for models that encode an image alike."""

    @classmethod
    def of(cls, model: LVLM, processor: Processor, question: str) -> Subject:
        """`question` stands behind the image, in the model's chat format.

        A model that cuts images into tiles is shown their base view alone: probed images are smaller than one tile.
        """
        content = [{"type": "image", "image": None}, {"type": "text", "text": question}]
        prepared = prepare([{"role": "user", "content": content}], processor, model)
        tower = tower_id(model, processor.image_processor), image_seam(model.config)
        return cls(model, processor, tuple(prepared.ids), tower)

    def run(self, encoded: Mapping[Level, Tensor], rows: int, note: Note, inside: Inside | None = None) -> None:
        """One pass of the model over `rows` encoded images; arguments as in `run_tapped`."""
        run_tapped(self.model, self.ids(rows), encoded, note, inside=inside)

    def ids(self, rows: int) -> Tensor:
        """The prompt ``(rows, S)``: all images have the same one, so nothing is padded."""
        return torch.tensor(self.prompt, device=self.model.device).expand(rows, -1)

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """Base views ``(len(images), 3, height, width)`` on the model's device."""
        processor, scheme = self.processor.image_processor, self.model.scheme
        if scheme is None:
            pixels: Tensor = processor(list(images), return_tensors="pt")["pixel_values"]
        else:  # as of an image that is shown as its base view alone; where that is asked in vain, it is among the tiles
            pixels = torch.stack([processed(processor, image, BASE_ONLY)[scheme.base_view] for image in images])
        return pixels.to(self.model.device, self.model.dtype)

    def batches(self, split: Split, rows: range, batch_size: int) -> Iterator[tuple[range, Tensor]]:
        """Rows and their pixels; the next batch is read while this one is computed."""
        starts = range(rows.start, rows.stop, batch_size)
        spans = [range(start, min(start + batch_size, rows.stop)) for start in starts]

        def load(span: range) -> Tensor:
            return self.pixels([split.image(index) for index in span])

        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(load, spans[0]) if spans else None
            for number, span in enumerate(spans):
                assert coming is not None
                pixels = coming.result()
                coming = pool.submit(load, spans[number + 1]) if number + 1 < len(spans) else None
                yield span, pixels


@dataclass(frozen=True)
class Extracted:
    """Features ``(images, width)`` of one model by tap and pool, and the keys they are kept under."""

    features: Mapping[Place, Features]
    keys: Mapping[Place, str]


def extract(
    subjects: Sequence[Subject],
    split: Split,
    taps: Sequence[Sequence[str]],
    pools: Sequence[str],
    folder: Path,
    batch_size: int,
    progress: Callable[[int], None] = lambda images: None,
) -> list[Extracted]:
    """Compute what the store in `folder` lacks, and read all of it; images are encoded once for models of one tower.

    Args:
        subjects: Models that fit into memory together.
        taps: For each of them, names of `taps_of(model)`.
        progress: Hears how many more images are done.

    Raises:
        InputError: an image cannot be read, the disk is full, or the store is stale or damaged.
    """
    keys = [_keys(subject, split, names, pools) for subject, names in zip(subjects, taps, strict=True)]
    stores: dict[str, TapStore] = {}
    for of_subject in keys:
        for (tap, pool), key in of_subject.items():
            about = {"tap": tap, "pool": pool, "images": split.key}
            stores.setdefault(key, TapStore(folder / key, len(split), about))
    for shard in range(math.ceil(len(split) / SHARD)):
        rows = range(shard * SHARD, min((shard + 1) * SHARD, len(split)))
        lacking = {key for key, store in stores.items() if shard in store.missing}
        if lacking:
            for key, features in _shard(subjects, split, rows, keys, lacking, batch_size).items():
                stores[key].write(shard, features)
        progress(len(rows))
    read = {key: store.read() for key, store in stores.items()}
    return [Extracted({place: read[key] for place, key in of.items()}, of) for of in keys]


def _keys(subject: Subject, split: Split, taps: Sequence[str], pools: Sequence[str]) -> dict[Place, str]:
    by_tap = tap_keys(subject.model, subject.processor.image_processor, subject.prompt, split.key)
    return {(tap, pool): f"{by_tap[tap][:32]}-{pool}" for tap in taps for pool in pools}


def _shard(
    subjects: Sequence[Subject],
    split: Split,
    rows: range,
    keys: Sequence[Mapping[Place, str]],
    lacking: set[str],
    batch_size: int,
) -> dict[str, Features]:
    """The rows of one shard for the keys that lack it."""
    parts: dict[str, list[Features]] = {key: [] for key in sorted(lacking)}
    for span, pixels in subjects[0].batches(split, rows, batch_size):
        shared = Encodings(subjects, pixels)
        found: dict[str, Features] = {}
        for subject, of_subject in zip(subjects, keys, strict=True):
            wanted = {place: key for place, key in of_subject.items() if key in lacking and key not in found}
            if wanted:
                pooled = Pooled(wanted)
                subject.run(shared.of(subject), len(span), pooled)
                found |= {key: pooled.found[place].cpu().numpy() for place, key in wanted.items()}
        for key, features in found.items():
            parts[key].append(features)
    return {key: np.concatenate(of_key) for key, of_key in parts.items()}


class Encodings:
    """Hidden states of one batch, computed once for all models that share a tower and its input."""

    def __init__(self, subjects: Sequence[Subject], pixels: Tensor) -> None:
        self.pixels = pixels
        self.levels: dict[object, set[Level]] = {}
        for subject in subjects:
            self.levels.setdefault(subject.tower, set()).update(levels_read(subject.model))
        self.found: dict[object, dict[Level, Tensor]] = {}

    def of(self, subject: Subject) -> Mapping[Level, Tensor]:
        """What `subject` reads of the tower."""
        if subject.tower not in self.found:
            levels = in_order(self.levels[subject.tower])
            self.found[subject.tower] = encode(subject.model, self.pixels, levels)
        return self.found[subject.tower]
