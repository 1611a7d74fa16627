from __future__ import annotations

import copy
import io
import logging

import pytest
import torch
from PIL import Image
from transformers import LlavaProcessor

from tests.adapters.world import model, png
from vr_eval.catalog.recipe import Recipe
from vr_eval.config.cell import Cell
from vr_eval.models.feature_store import FeatureStore
from vr_eval.models.features import ImageEncoder, image_id, levels_of, tower_id
from vr_eval.models.lvlm import LVLM


def image(seed: int) -> Image.Image:
    return Image.open(io.BytesIO(png(seed)))


@pytest.fixture(scope="module")
def pooled(reader: LlavaProcessor) -> LVLM:
    """A model on the tower of `lvlm` that reads fewer levels."""
    return model("avg_pool", 4, "none", len(reader.tokenizer), reader.image_token_id)


def test_features_are_those_of_encode_images_bit_by_bit(lvlm: LVLM, reader: LlavaProcessor) -> None:
    images = [image(0), image(1), image(0)]
    stored = ImageEncoder(lvlm, reader.image_processor, FeatureStore())
    unstored = ImageEncoder(lvlm, reader.image_processor, FeatureStore(capacity_bytes=0))
    first, again, without = stored(images), stored(images), unstored(images)
    with torch.no_grad():
        direct = [
            lvlm.encode_images(reader.image_processor([one.convert("RGB")], return_tensors="pt")["pixel_values"])
            for one in images
        ]
    assert torch.equal(first, torch.cat(direct))
    assert torch.equal(first, again)
    assert torch.equal(first, without)
    assert (stored.store.encoded, unstored.store.encoded) == (2, 3)


def test_cells_that_share_a_tower_encode_an_image_once(lvlm: LVLM, pooled: LVLM, reader: LlavaProcessor) -> None:
    assert set(pooled.feature_levels) < set(lvlm.feature_levels)
    store = FeatureStore({*lvlm.feature_levels, *pooled.feature_levels})
    images = [image(seed) for seed in range(3)]
    few = ImageEncoder(pooled, reader.image_processor, store)(images)
    many = ImageEncoder(lvlm, reader.image_processor, store)(images)
    assert store.encoded == 3
    place = lvlm.feature_levels.index(pooled.feature_levels[0])
    assert torch.equal(few[:, :, 0], many[:, :, place])


def test_a_level_that_nobody_announced_is_encoded_when_it_is_wanted(
    lvlm: LVLM, pooled: LVLM, reader: LlavaProcessor
) -> None:
    store = FeatureStore()
    ImageEncoder(pooled, reader.image_processor, store)([image(0)])
    many = ImageEncoder(lvlm, reader.image_processor, store)([image(0)])
    assert store.encoded == 2
    assert many.shape[2] == len(lvlm.feature_levels)


def test_towers_with_other_weights_share_nothing(lvlm: LVLM, reader: LlavaProcessor) -> None:
    other = model("avg_pool", 4, "none", len(reader.tokenizer), reader.image_token_id, seed=1)
    assert tower_id(lvlm, reader.image_processor) != tower_id(other, reader.image_processor)


def test_features_of_a_smaller_image_are_never_those_of_the_whole(pooled: LVLM, reader: LlavaProcessor) -> None:
    store, images = FeatureStore({0, *pooled.feature_levels}), [image(0), image(1)]
    smaller = copy.deepcopy(pooled)
    encoders = [ImageEncoder(model, reader.image_processor, store) for model in (pooled, smaller)]
    for factor in (2, 3):  # changed under an encoder that is there already
        smaller.config.image, smaller.config.options = "downsample", {"downsample": {"factor": factor}}
        smaller.fill_training_free()
        whole, small = (encoder(images) for encoder in encoders)
        assert (whole.shape[1], small.shape[1]) == (144, 144 // factor**2)
        unstored = ImageEncoder(smaller, reader.image_processor, FeatureStore(capacity_bytes=0))(images)
        assert torch.equal(small, unstored)
        assert torch.equal(small, encoders[1](images))
    assert store.encoded == 2 * 3  # whole, half, third
    one = pooled.config.shapes.tower_width * 4  # bytes of one patch
    assert store.held_bytes == 2 * one * (2 * 144 + 36 + 16)  # only the whole image at the level that others announced


def test_images_of_other_sizes_or_pixels_have_other_names() -> None:
    wide, high = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    assert len({image_id(wide), image_id(high), image_id(Image.new("RGB", (4, 2), "red"))}) == 3


def test_a_full_store_lets_the_least_recently_used_go_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    hidden = torch.zeros(8, 4)  # 128 bytes
    store = FeatureStore(capacity_bytes=300)
    with caplog.at_level(logging.WARNING):
        store.put("t", "a", {0: hidden})
        store.put("t", "b", {0: hidden})
        assert store.get("t", "a", [0]) is not None
        store.put("t", "c", {0: hidden})
        store.put("t", "d", {0: hidden})
    assert [name for name in "abcd" if store.get("t", name, [0])] == ["c", "d"]
    assert store.held_bytes == 256
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    ("projector", "ratio", "refusion", "options"),
    [
        ("mlp", 1, "none", {}),
        ("pixel_shuffle", 9, "none", {}),
        ("tokenpacker", 4, "none", {}),
        ("avg_pool", 4, "vision_remember", {}),
        ("mlp", 1, "deepstack", {"stacks": "crops"}),
        ("tokenpacker", 4, "deepstack", {"stacks": "crops", "place": "tower"}),
    ],
)
def test_the_levels_of_a_cell_are_those_that_its_model_reads(
    reader: LlavaProcessor, projector: str, ratio: int, refusion: str, options: dict[str, object]
) -> None:
    given = {refusion: options} if options else {}
    cell = Cell("micro", projector, ratio, refusion, "none", 0, given, Recipe())
    built = model(projector, ratio, refusion, len(reader.tokenizer), reader.image_token_id, options=given)
    assert levels_of(cell) == built.feature_levels


def deepstack(reader: LlavaProcessor, **options: object) -> LVLM:
    given = {"deepstack": {"stacks": "crops", **options}}
    return model("mlp", 1, "deepstack", len(reader.tokenizer), reader.image_token_id, options=given)


@torch.no_grad()
def test_features_of_crops_and_of_the_plain_image_are_kept_apart(reader: LlavaProcessor) -> None:
    plain = model("mlp", 1, "none", len(reader.tokenizer), reader.image_token_id)
    models = [plain, deepstack(reader), deepstack(reader, place="tower")]
    assert len({tower_id(one, reader.image_processor) for one in models}) == 1
    store = FeatureStore()  # one for all of them, in which nothing is announced
    images = [image(0), image(1)]
    for one in (*models, *models[::-1]):
        stored = ImageEncoder(one, reader.image_processor, store)(images)
        alone = ImageEncoder(one, reader.image_processor, FeatureStore(capacity_bytes=0))(images)
        assert stored.shape[2] == len(one.feature_levels)
        assert torch.equal(stored, alone)
    assert store.encoded == 6  # the second time round everything is there


@pytest.mark.parametrize("place", ["decoder", "tower"])
@torch.no_grad()
def test_stored_features_answer_as_pixels_do(reader: LlavaProcessor, place: str) -> None:
    lvlm = deepstack(reader, place=place)
    pixels = reader.image_processor([image(0)], return_tensors="pt")["pixel_values"]
    ids = torch.tensor([[5, *[reader.image_token_id] * lvlm.tokens_per_image, 6, 7]])
    features = ImageEncoder(lvlm, reader.image_processor, FeatureStore({*lvlm.feature_levels, 1}))([image(0)])
    assert torch.equal(lvlm(ids, None, pixels).logits, lvlm(ids, vision_features=features).logits)
    generated = [
        lvlm.generate(ids, max_new_tokens=4, do_sample=False, **given)
        for given in ({"pixel_values": pixels}, {"vision_features": features})
    ]
    assert torch.equal(*generated)
