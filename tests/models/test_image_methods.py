"""A method of someone else's in the image seam: one that leaves the patch grid as it is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor

from vr_eval.catalog.fields import described
from vr_eval.catalog.recipe import Recipe
from vr_eval.config.cell import Cell
from vr_eval.methods.base import ImageMethod, Shapes
from vr_eval.methods.options import ImageOptions
from vr_eval.methods.registry import METHODS
from vr_eval.methods.spec import MethodSpec
from vr_eval.models.build import build_lvlm
from vr_eval.models.feature_store import FeatureStore
from vr_eval.models.features import ImageEncoder
from vr_eval.models.lvlm import LVLM
from vr_eval.models.processor import Processor
from vr_eval.probes.dense import can_be_dense
from vr_eval.probes.extract import Subject
from vr_eval.probes.keys import tap_keys
from vr_eval.testing.tiny import SIDE, tiny_lvlm

BASE = "vr_eval.methods.base"
SQUARE = {"height": SIDE, "width": SIDE}
PROCESSOR = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)


@dataclass(frozen=True)
class DimmedOptions(ImageOptions):
    """Pixels times a number."""

    share: float = described(0.5, "the number", above=0, maximum=1)

    def patches(self, grid: int) -> int:
        return grid


class Dimmed(ImageMethod):
    """Pixels times a number."""

    def __init__(self, shapes: Shapes, options: DimmedOptions) -> None:
        super().__init__(shapes, options)
        self.share = options.share

    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values * self.share


@dataclass(frozen=True)
class CroppedOptions(ImageOptions):
    """Two thirds of a side, which do not divide the whole of it."""

    def patches(self, grid: int) -> int:
        return grid * 2 // 3


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"options": DimmedOptions, "module": __name__, "cls": "Dimmed", "trainable": False}
    spec = MethodSpec(name="dimmed", version=1, summary="dimmed", source="a test", **options)
    monkeypatch.setitem(METHODS, "dimmed", spec)
    cropped = dataclasses.replace(spec, name="cropped", options=CroppedOptions, cls="ImageMethod", module=BASE)
    monkeypatch.setitem(METHODS, "cropped", cropped)


def test_images_that_only_look_alike_to_the_grid_share_no_features() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    models = [tiny_lvlm(), tiny_lvlm(free="dimmed"), tiny_lvlm(free="dimmed", share=0.25)]
    store = FeatureStore()
    shared = [ImageEncoder(model, PROCESSOR, store)([image]) for model in models]
    for model, found in zip(models, shared, strict=True):
        assert torch.equal(found, ImageEncoder(model, PROCESSOR, FeatureStore())([image]))
    assert store.encoded == 3
    assert torch.equal(ImageEncoder(models[1], PROCESSOR, store)([image]), shared[1])
    assert store.encoded == 3


def test_what_a_probe_keeps_of_them_has_keys_of_its_own() -> None:
    models = [tiny_lvlm(), tiny_lvlm(free="dimmed"), tiny_lvlm(free="dimmed", share=0.25)]
    first, second, third = (tap_keys(model, PROCESSOR, [1, 2], "a") for model in models)
    assert not set(first.values()) & set(second.values())
    assert not set(second.values()) & set(third.values())


def untrained(image: str) -> tuple[LVLM, Processor]:
    seams = {"projector": "mlp", "refusion": "none", "pruning": "none", "image": image}
    return build_lvlm(Cell("micro", ratio=1, seed=0, options={}, recipe=Recipe(), **seams))


def test_models_that_are_probed_together_share_no_image_that_only_one_of_them_sees() -> None:
    plain, same, dimmed = (Subject.of(*untrained(image), "what?").tower for image in ("none", "none", "dimmed"))
    assert plain == same != dimmed


def test_the_processor_of_an_untrained_cell_counts_what_is_left_of_any_grid() -> None:
    model, processor = untrained("cropped")
    text = processor(images=Image.new("RGB", (192, 192)), text=processor.image_token)["input_ids"][0]
    assert model.tokens_per_image == text.count(processor.image_token_id) == 64


def test_labels_of_patches_are_read_where_every_token_stands_over_as_many() -> None:
    models = [tiny_lvlm("mlp", 1, free=name) for name in ("none", "downsample", "dimmed", "cropped")]
    assert [can_be_dense(model) for model in models] == [True, True, True, False]
