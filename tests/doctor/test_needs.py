"""What is cached is found where the Hugging Face libraries look for it, and a part of it is not taken for the whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from datasets import Dataset
from huggingface_hub import constants

from tests.adapters.official_data import CASES
from vr_eval.adapters.lmms_tasks import load_tasks
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.catalog.recipe import Recipe, SecondStage, Stage
from vr_eval.config.grid import load_grid
from vr_eval.doctor.needs import all_needs, dataset_needs, needs_of, training_needs, weight_needs

PRESET = "llava_next_qwen2_0_5b"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHARTQA = next(case for case in CASES if case.task == "chartqa")


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of models and data, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def cache_dataset(root: Path, folder: str, name: str, rows: list[dict[str, object]]) -> Path:
    """What `datasets` leaves behind when it has prepared a dataset of the hub."""
    Dataset.from_list(rows).to_parquet(root / "rows.parquet")
    datasets.load_dataset("parquet", data_files={"test": str(root / "rows.parquet")}, cache_dir=str(root / "once"))
    (made,) = (file.parent for file in (root / "once").rglob("dataset_info.json"))
    place = root / "datasets" / folder / "default" / "0.0.0" / COMMIT
    shutil.copytree(made, place)
    (place / "parquet-test.arrow").rename(place / f"{name}-test.arrow")
    info = place / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"config_name": "default", "dataset_name": name}))
    return place


def cache_model(root: Path, name: str, files: dict[str, str]) -> Path:
    """What the hub's library leaves behind when it has downloaded a model."""
    folder = root / "hub" / f"models--{name.replace('/', '--')}"
    place = folder / "snapshots" / COMMIT
    place.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for file, content in files.items():
        (place / file).write_text(content)
    return place


def test_a_dataset_that_is_cached_runs_without_network(caches: Path) -> None:
    (need,) = dataset_needs(["chartqa"])
    assert (need.label, need.users, need.cached) == ("dataset lmms-lab-encoder/ChartQA", ("chartqa",), False)
    place = cache_dataset(caches, "lmms-lab-encoder___chart_qa", "chart_qa", CHARTQA.rows)
    (need,) = dataset_needs(["chartqa"])
    assert need.cached
    assert need.questions == (("test", len(CHARTQA.rows)),)
    assert len(load_tasks(["chartqa"])["chartqa"].eval_docs) == len(CHARTQA.rows)
    place.rename(place.with_suffix(".incomplete"))
    assert not dataset_needs(["chartqa"])[0].cached


def test_a_dataset_in_another_configuration_is_missing(caches: Path) -> None:
    cache_dataset(caches, "lmms-lab-encoder___doc_vqa", "doc_vqa", CHARTQA.rows)
    assert [need.cached for need in dataset_needs(["docvqa_val", "infovqa_val"])] == [False, False]


def test_one_dataset_of_several_tasks_is_one_need(caches: Path) -> None:
    needs = dataset_needs(["charxiv_val_descriptive", "charxiv_val_reasoning", "gqa", "vr_micro_ocr"])
    assert [(need.name, need.part) for need in needs] == [
        ("princeton-nlp/CharXiv", None),
        ("lmms-lab-encoder/GQA", "testdev_balanced_instructions"),
        ("lmms-lab-encoder/GQA", "testdev_balanced_images"),
    ]
    assert needs[0].users == ("charxiv_val_descriptive", "charxiv_val_reasoning")


def test_weights_are_cached_when_every_shard_is_there(caches: Path) -> None:
    tower, decoder = weight_needs([BACKBONES[PRESET]])
    assert (tower.cached, decoder.cached) == (False, False)
    cache_model(caches, tower.name, {"config.json": "{}", "pytorch_model.bin": "x" * 30, "README.md": ""})
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    files = {"config.json": "{}", "model.safetensors.index.json": index, "model-1.safetensors": "x"}
    place = cache_model(caches, decoder.name, files)
    tower, decoder = weight_needs([BACKBONES[PRESET]])
    assert tower.bytes == 32
    assert not decoder.cached
    (place / "model-2.safetensors").write_text("x")
    assert weight_needs([BACKBONES[PRESET]])[1].cached
    (place / "config.json").unlink()
    assert not weight_needs([BACKBONES[PRESET]])[1].cached


def test_a_grid_needs_its_own_tasks_and_backbone_only(caches: Path) -> None:
    assert needs_of(load_grid("projectors")) == []
    grid = load_grid("projectors", ["suites=[chart]"], backbone=PRESET)
    assert [need.name for need in needs_of(grid)] == [
        "lmms-lab-encoder/ChartQA",
        BACKBONES[PRESET].recipe.stage2.data,
        *(source.name for source in BACKBONES[PRESET].sources),
    ]
    # What cells train on is no matter of the suites.
    assert {need.name for need in needs_of(grid) if need.name != BACKBONES[PRESET].recipe.stage2.data} < {
        need.name for need in all_needs()
    }


def test_training_data_of_the_hub_is_needed_until_every_cell_is_trained(caches: Path) -> None:
    recipe = Recipe(stage1=Stage(data="captions.json"), stage2=SecondStage(data=f"lmms-lab-encoder/ChartQA@{COMMIT}"))
    (need,) = training_needs(recipe)
    assert (need.label, need.part, need.cached) == (f"training data lmms-lab-encoder/ChartQA @{COMMIT}", COMMIT, False)
    cache_dataset(caches, "lmms-lab-encoder___chart_qa", "chart_qa", CHARTQA.rows)
    assert training_needs(recipe)[0].cached
    assert not training_needs(replace(recipe, stage2=SecondStage(data=f"lmms-lab-encoder/ChartQA@{40 * 'f'}")))[
        0
    ].cached
    assert training_needs(replace(recipe, stage2=SecondStage(data=str(caches)))) == []
