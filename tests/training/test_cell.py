"""A cell of the embedded backbone trains for a few steps, through both stages, into a checkpoint that loads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vr_eval.catalog.backbones import MICRO
from vr_eval.catalog.recipe import Recipe, SecondStage, Stage
from vr_eval.config.cell import Cell
from vr_eval.config.identity import checkpoint_id
from vr_eval.methods.registry import METHODS
from vr_eval.micro.corpus import training_corpus
from vr_eval.models.build import build_lvlm
from vr_eval.models.checkpoints import load_checkpoint
from vr_eval.models.feature_store import FeatureStore
from vr_eval.models.features import ImageEncoder
from vr_eval.models.lvlm import LVLM
from vr_eval.training.cell import train_cell
from vr_eval.training.data import collate
from vr_eval.training.pixels import on_pixels
from vr_eval.training.sources import conversations

RECIPE = Recipe(
    images=2, questions=2, batch_size=4, stage1=Stage(steps=1), stage2=SecondStage(steps=2, lr_decoder=1e-3)
)


def test_a_cell_trains_its_methods_and_its_decoder_and_leaves_the_tower(tmp_path: Path) -> None:
    cell = Cell("micro", "avg_pool", 4, "vision_remember", "none", 0, {}, RECIPE)
    folder = tmp_path / checkpoint_id(cell)
    train_cell(cell, folder, "cpu")
    manifest = json.loads((folder / "checkpoint.json").read_text())
    assert manifest["checkpoint_id"] == checkpoint_id(cell)
    assert str(MICRO.weights) not in (folder / "config.json").read_text()  # a checkpoint travels
    assert not list(tmp_path.glob("*.training"))  # what a resumed training needs is gone once it is complete

    before, _ = build_lvlm(cell)
    after, processor = load_checkpoint(folder, expect=checkpoint_id(cell))
    assert processor.tokenizer.padding_side == "left"
    fresh, trained = before.state_dict(), after.state_dict()
    assert fresh.keys() == trained.keys()
    changed = {name for name in fresh if not torch.allclose(fresh[name], trained[name], atol=1e-3 * 0.5, rtol=1e-3)}
    assert not any(name.startswith("vision_tower.") for name in changed)
    for part in ("projector.", "refusion.", "language_model."):
        assert any(name.startswith(part) for name in changed), part


def test_a_tower_with_a_rate_learns_in_stage_2_from_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dataclasses.replace(RECIPE, stage2=dataclasses.replace(RECIPE.stage2, lr_tower=1e-3))
    cell = Cell("micro", "avg_pool", 4, "vision_remember", "none", 0, {}, recipe)
    given: list[set[str]] = []
    forward = LVLM.forward

    def watched(self: LVLM, **batch: Any) -> Any:
        given.append({name for name in ("pixel_values", "vision_features") if batch.get(name) is not None})
        return forward(self, **batch)

    monkeypatch.setattr(LVLM, "forward", watched)
    train_cell(cell, tmp_path / "checkpoint", "cpu")
    assert given == [{"vision_features"}] + [{"pixel_values"}] * 2
    before, _ = build_lvlm(cell)
    after, _ = load_checkpoint(tmp_path / "checkpoint", expect=checkpoint_id(cell))
    fresh, trained = before.state_dict(), after.state_dict()
    changed = {name for name in fresh if not torch.allclose(fresh[name], trained[name], atol=1e-3 * 0.5, rtol=1e-3)}
    for layer in range(4):
        assert any(name.startswith(f"vision_tower.encoder.layers.{layer}.") for name in changed)


def test_pixels_are_those_that_kept_features_come_from() -> None:
    cell = Cell("micro", "avg_pool", 4, "none", "none", 0, {}, RECIPE)
    model, processor = build_lvlm(cell)
    kept = conversations(cell, model, processor)
    seen = on_pixels(kept, cell, processor.image_processor)
    assert len(seen) == len(kept)
    batches = [collate([dataset[index] for index in (0, 5)], 0) for dataset in (kept, seen)]
    assert torch.equal(batches[0]["labels"], batches[1]["labels"])
    features = model.encode_images(batches[1]["pixel_values"]).detach()
    torch.testing.assert_close(features, batches[0]["vision_features"], atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("place", ["decoder", "tower"])
def test_a_cell_with_crops_trains_on_kept_features_of_its_own(tmp_path: Path, place: str) -> None:
    plain = Cell("micro", "mlp", 1, "none", "none", 0, {}, RECIPE)
    crops = Cell("micro", "mlp", 1, "deepstack", "none", 0, {"deepstack": {"stacks": "crops", "place": place}}, RECIPE)
    made = []
    for cell in (crops, plain, crops):  # the second time from disk
        model, processor = build_lvlm(cell)
        made.append((conversations(cell, model, processor), model, processor))
    (first, model, processor), _, (again, _, _) = made
    sample = torch.from_numpy(first[0]["features"])
    assert sample.shape == (144, len(model.feature_levels), 96)
    assert torch.equal(sample, torch.from_numpy(again[0]["features"]))
    image = training_corpus(RECIPE.images, RECIPE.questions).images[0]
    own = ImageEncoder(model, processor.image_processor, FeatureStore())([image])[0]
    torch.testing.assert_close(sample.float(), own, atol=5e-3, rtol=5e-3)  # kept as float16

    folder = tmp_path / checkpoint_id(crops)
    train_cell(crops, folder, "cpu")
    before, after = model.state_dict(), load_checkpoint(folder, expect=checkpoint_id(crops))[0].state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-3 * 0.5, rtol=1e-3)}
    assert not any(name.startswith("vision_tower.") for name in changed)
    assert any(name.startswith("projector." if place == "tower" else "refusion.") for name in changed)


@pytest.mark.parametrize("factor", [2, 3])
def test_the_processor_of_a_downsampled_cell_writes_as_many_image_tokens_as_its_model_takes(factor: int) -> None:
    options = {"downsample": {"factor": factor}}
    cell = Cell("micro", "avg_pool", 4, "none", "none", 0, options, RECIPE, image="downsample")
    model, processor = build_lvlm(cell)
    given = processor(images=Image.new("RGB", (192, 192)), text=f"{processor.image_token}?", return_tensors="pt")
    assert int((given["input_ids"] == processor.image_token_id).sum()) == model.tokens_per_image == cell.tokens
    with torch.no_grad():
        assert model(**given).logits.shape[1] == given["input_ids"].shape[1]


@pytest.mark.parametrize("options", [{"fastv": {"keep_ratio": 0.25}}, {"downsample": {"factor": 3}}], ids=str)
def test_a_training_free_method_is_no_part_of_the_checkpoint(tmp_path: Path, options: dict) -> None:
    (name,) = options
    bare = Cell("micro", "mlp", 1, "none", "none", 0, {}, RECIPE)
    cell = dataclasses.replace(bare, options=options, **{METHODS[name].seam: name})
    assert checkpoint_id(cell) == checkpoint_id(bare)
    train_cell(cell, tmp_path / "checkpoint", "cpu")
    model, _ = load_checkpoint(tmp_path / "checkpoint", expect=checkpoint_id(bare))
    assert model.config.pruning == model.config.image == "none"
    assert name not in model.config.options
    assert model.tokens_per_image == bare.tokens == 144
