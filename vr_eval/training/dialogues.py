"""Training on conversations about real images: they are checked once, and read, encoded and processed when asked for.

A sample that cannot be used (an image that is missing or unreadable, no whole conversation, more tokens than the limit)
is found before training begins, listed with its reason, and left out; too many of them end the training.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset as Table
from datasets.table import InMemoryTable
from filelock import FileLock
from PIL import Image
from pyarrow import parquet
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BaseImageProcessor

from vr_eval.catalog.recipe import DATA, TEMPLATES, StageData
from vr_eval.config.cell import Cell
from vr_eval.errors import InputError, Problem, VrEvalError
from vr_eval.files import atomic_target, write_atomic
from vr_eval.models.features import processed
from vr_eval.models.lvlm import IGNORE, LVLM
from vr_eval.models.processor import Processor
from vr_eval.models.tiles import BASE_ONLY, Size
from vr_eval.paths import home
from vr_eval.training.conversation import Encoded
from vr_eval.training.data import padded
from vr_eval.training.records import Records, open_records
from vr_eval.training.shown import Shown
from vr_eval.training.templates import Template
from vr_eval.training.typed import BrokenSample, Dialogue

_VERSION = 2
"""Raised by hand when something else is found out about a sample, or by another rule."""
_WORTH_PROCESSES = 2000  # samples; checking fewer takes less than starting processes does


@dataclass(frozen=True)
class Reader:
    """From a row of `records` to a sample."""

    records: Records
    template: Template
    images: BaseImageProcessor
    shown: Shown
    max_length: int

    def encode(self, dialogue: Dialogue, images: Sequence[Image.Image]) -> tuple[Encoded, list[Size]]:
        """Token ids and labels of a dialogue about upright `images`, and the sizes that they are shown in.

        Raises:
            BrokenSample: images and their places differ in number, or there are too many tokens.
        """
        sizes = self.shown.sizes(images)
        tokens = [self.shown.tokens(size) for size in sizes]
        try:
            encoded = self.template.encode(dialogue.turns, dialogue.system, tokens)
        except ValueError as error:  # of images and their places, or what a chat template cannot write
            raise BrokenSample(str(error)) from None
        if len(encoded.input_ids) > self.max_length:
            raise BrokenSample(f"longer than {self.max_length} tokens")
        return encoded, sizes

    def read(self, row: int) -> tuple[Encoded, list[Size], list[Image.Image]]:
        """Raises BrokenSample: it cannot be used."""
        dialogue = self.records[row]
        images = [self.records.load(image) for image in dialogue.images]
        return *self.encode(dialogue, images), images

    def check(self, sample: dict[str, int]) -> dict[str, Any]:
        """The length of the sample in a row in tokens, or what is wrong with it."""
        row = sample["row"]
        try:
            return {"row": row, "length": len(self.read(row)[0].input_ids), "broken": ""}
        except BrokenSample as error:
            return {"row": row, "length": 0, "broken": str(error)}


@dataclass(frozen=True)
class Dialogues(Dataset[dict[str, Any]]):
    """The samples of one stage that can be used; `lengths` in tokens."""

    reader: Reader
    rows: Sequence[int]
    lengths: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises VrEvalError: the sample could be used when it was checked, and cannot any more."""
        row = self.rows[index]
        try:
            encoded, sizes, images = self.reader.read(row)
        except BrokenSample as error:
            raise VrEvalError(f"training data changed: sample {self.reader.records.name(row)}: {error}") from error
        tiles = [processed(self.reader.images, image, size) for image, size in zip(images, sizes, strict=True)]
        return {"input_ids": encoded.input_ids, "labels": encoded.labels, "tiles": tiles, "sizes": sizes}


@dataclass(frozen=True)
class Checked:
    """The samples of one stage, and those that are left out as (name, reason)."""

    content: str
    """The identity of the data."""
    dialogues: Dialogues
    broken: tuple[tuple[str, str], ...]

    def as_csv(self) -> str:
        """The broken samples, one a line."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("sample", "reason"), *self.broken])
        return text.getvalue()

    def reasons(self) -> Counter[str]:
        """How many samples are left out for which reason."""
        return Counter(reason for _, reason in self.broken)


def dialogues(cell: Cell, stage: int, model: LVLM, processor: Processor) -> Checked:
    """The training samples of a stage of `cell`, every one looked at; what was found is kept for the next time.

    Raises:
        InputError: the recipe names no data, they cannot be read, or too many samples are broken.
    """
    data = cell.recipe.data(stage)
    if data is None:
        message = f"no data to train {cell.backbone} on in stage {stage}"
        raise InputError(Problem(message, key=f"recipe.stage{stage}.data", allowed=DATA))
    template = Template.of(data, cell.recipe, processor)
    if template.unknown is not None:
        message = f"the tokenizer of {cell.backbone} has no {template.unknown}"
        allowed = ", ".join(name for name in TEMPLATES if name != data.template)
        raise InputError(Problem(message, key=f"recipe.stage{stage}.template", given=data.template, allowed=allowed))
    # Processes that train together would all do it at once.
    (home() / "training-data").mkdir(parents=True, exist_ok=True)
    lock = FileLock(home() / "training-data" / "lock")
    with lock:
        records = open_records(data)
    reader = Reader(records, template, processor.image_processor, Shown.of(model), cell.recipe.max_length)
    kept = home() / "training-data" / f"checked-{_looked_at_what(cell, data, reader)}.parquet"
    with lock:
        return _checked(cell, stage, data, reader, kept)


def _looked_at_what(cell: Cell, data: StageData, reader: Reader) -> str:
    """Names all that tells whether a sample can be used, and how long it is."""
    words = json.dumps(reader.template.tokenizer.get_vocab(), sort_keys=True)
    seen = [data.identity(), reader.records.identity(), reader.template.about, words]
    about = json.dumps([_VERSION, *seen, cell.backbone, str(reader.shown), reader.max_length])
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def _checked(cell: Cell, stage: int, data: StageData, reader: Reader, kept: Path) -> Checked:
    found = _looked_at(reader, kept)
    good = [(sample["row"], sample["length"]) for sample in found if not sample["broken"]]
    broken = tuple((reader.records.name(sample["row"]), sample["broken"]) for sample in found if sample["broken"])
    samples = Dialogues(reader, [row for row, _ in good], [length for _, length in good])
    checked = Checked(data.identity(), samples, broken)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in checked.reasons().most_common())
    if len(broken) > cell.recipe.broken * len(found):
        listed = kept.with_suffix(".broken.csv")
        write_atomic(listed, checked.as_csv())
        kept.unlink()  # once they are mended, they are looked at again
        message = f"{len(broken)} of {len(found)} samples are broken ({reasons})"
        allowed = f"at most {cell.recipe.broken:.1%}"
        hint = f"All are listed in {listed}."
        raise InputError(Problem(message, file=data.name, key="recipe.broken", allowed=allowed, hint=hint))
    batch = cell.recipe.batch(stage)
    if len(good) < batch:
        message = f"{len(good)} samples are fewer than a batch of stage {stage}"
        own = f"stage{stage}." if cell.recipe.stage(stage).batch_size is not None else ""
        raise InputError(Problem(message, file=data.name, key=f"recipe.{own}batch_size", given=batch))
    return checked


def _looked_at(reader: Reader, kept: Path) -> Table:
    """Columns `row`, `length` and `broken` of every sample."""
    if not kept.is_file():
        rows = Table.from_dict({"row": range(len(reader.records))})
        processes = min(os.cpu_count() or 1, 16) if len(rows) > _WORTH_PROCESSES else None
        # A name of its own, so that the library need not hash the reader.
        found = rows.map(reader.check, num_proc=processes, new_fingerprint=kept.stem, desc="checking samples")
        with atomic_target(kept) as partial:
            found.to_parquet(str(partial))
    return Table(InMemoryTable(parquet.read_table(kept)))


def collate_dialogues(
    samples: Sequence[dict[str, Any]], pad_token_id: int, image_token_id: int, shown: Shown
) -> dict[str, Tensor]:
    """A right-padded batch of samples of `Dialogues`; all their tiles as ``(M, 3, height, width)``.

    Text alone gets a blank image among its padding, where nothing sees it: every process has to go through the same
    parts of a model that several of them train.
    """
    batch = padded(samples, pad_token_id)
    tiles = [tile for sample in samples for tile in sample["tiles"]]
    sizes = [size for sample in samples for size in sample["sizes"]]
    if not tiles:
        tiles, sizes = [torch.zeros(1, 3, shown.tile_px, shown.tile_px)], [BASE_ONLY]
        blank = torch.full((len(samples), shown.tokens(BASE_ONLY)), pad_token_id)
        blank[0] = image_token_id
        unseen = {
            "input_ids": blank,
            "attention_mask": torch.zeros_like(blank),
            "labels": torch.full_like(blank, IGNORE),
        }
        batch = {name: torch.cat([given, unseen[name]], dim=1) for name, given in batch.items()}
    batch["pixel_values"] = torch.cat(tiles)
    if shown.scheme is not None:
        batch["image_sizes"] = torch.tensor(sizes)
    return batch
