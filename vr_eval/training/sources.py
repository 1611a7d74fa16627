"""What each stage of a cell trains on: the embedded suites over cached features, or data that its recipe names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlavaProcessor

from vr_eval.catalog.backbones import weights_hash
from vr_eval.config.cell import Cell
from vr_eval.methods.levels import Level
from vr_eval.models.lvlm import LVLM
from vr_eval.models.processor import Processor
from vr_eval.paths import home
from vr_eval.training.data import ConversationDataset, cached_features, collate
from vr_eval.training.pixels import on_pixels
from vr_eval.training.stages import CellStage
from vr_eval.training.templates import encode


@dataclass(frozen=True)
class Samples:
    """The training samples of one stage and how they become a batch."""

    dataset: Dataset[dict[str, Any]]
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]
    lengths: Sequence[int] | None = None
    """Tokens of each sample, where they differ so much that batches are to be of like lengths."""
    about: dict[str, Any] | None = None
    """What a checkpoint says of them."""
    broken: str | None = None
    """CSV of the samples that are left out."""


def samples_of(cell: Cell, stages: Sequence[CellStage], model: LVLM, processor: Processor) -> dict[str, Samples]:
    """The training samples of each of the stages of `cell`, by the stage's name.

    Raises:
        InputError: there are none for this backbone, they cannot be read, or too many are broken.
    """
    own = {stage.name: cell.recipe.data(stage.number) for stage in stages}
    embedded = None
    if None in own.values() and not cell.spec.sources:
        embedded = conversations(cell, model, processor)
    found = {}
    for stage in stages:
        if embedded is not None and own[stage.name] is None:
            # Features that are kept are those of a frozen tower.
            dataset = on_pixels(embedded, cell, processor.image_processor) if stage.needs_pixels else embedded
            found[stage.name] = Samples(dataset, partial(collate, pad_token_id=processor.tokenizer.pad_token_id))
        else:
            found[stage.name] = _named(cell, stage, model, processor)
    return found


def _named(cell: Cell, stage: CellStage, model: LVLM, processor: Processor) -> Samples:
    """The samples that the recipe names."""
    from vr_eval.training.dialogues import collate_dialogues, dialogues

    checked, tokenizer = dialogues(cell, stage.number, model, processor), processor.tokenizer
    batches = partial(
        collate_dialogues,
        pad_token_id=tokenizer.pad_token_id,
        image_token_id=model.config.image_token_id,
        shown=checked.dialogues.reader.shown,
    )
    commit = checked.dialogues.reader.records.commit
    return Samples(
        checked.dialogues,
        batches,
        checked.dialogues.lengths,
        {
            "content": checked.content,
            **({"commit": commit} if commit is not None else {}),
            "samples": len(checked.dialogues),
            "broken": checked.reasons(),
        },
        checked.as_csv() if checked.broken else None,
    )


def conversations(cell: Cell, model: LVLM, processor: LlavaProcessor) -> ConversationDataset:
    """The training set of `cell`: `recipe.images` images a suite, questions on each, and then its facts.

    Facts come last: an answer after them could be copied from the text.
    """
    from vr_eval.micro.corpus import reading, training_corpus

    corpus = training_corpus(cell.recipe.images, cell.recipe.questions)
    key = hashlib.sha256(f"{weights_hash(cell.spec)}|{cell.spec.data_version}|{cell.recipe.images}".encode())
    features = cached_features(
        feature_folder(key.hexdigest()[:16]), model.feature_levels, corpus.images, tower_encoder(model, processor)
    )
    samples = [
        encode(processor.tokenizer, [*turns, *reading(facts, cell.recipe.facts, image)], model.tokens_per_image)
        for image, (turns, facts) in enumerate(zip(corpus.turns, corpus.facts, strict=True))
    ]
    return ConversationDataset(samples, features)


def feature_folder(key: str) -> Path:
    """Where features are kept for one tower and one list of images."""
    return home() / "features" / key


def tower_encoder(model: LVLM, processor: LlavaProcessor) -> Any:
    """Images to hidden states of the model's tower, for `cached_features`."""

    def encode_batch(images: Sequence[Image.Image], levels: tuple[Level, ...]) -> Tensor:
        pixels = processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        return model.encode_images(pixels.to(model.device), levels).cpu()

    return encode_batch
