"""Training conversations of a backbone, over cached features of its frozen tower."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import LlavaProcessor

from vr_eval.config.cell import Cell
from vr_eval.methods.levels import Level
from vr_eval.models.backbones import weights_hash
from vr_eval.models.lvlm import LVLM
from vr_eval.paths import home
from vr_eval.training.conversation import encode
from vr_eval.training.data import ConversationDataset, cached_features


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
