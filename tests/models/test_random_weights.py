"""True shapes without weights: every preset is built from what is stated of it, by the code that loads real ones."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, PreTrainedConfig

from tests.llava import image
from tests.shapes import small_preset
from vr_eval.adapters.answering import Answerer
from vr_eval.adapters.questions import Question
from vr_eval.catalog.backbone import BackboneSpec, Loading, Source
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.catalog.presets import PRESETS
from vr_eval.catalog.recipe import Recipe
from vr_eval.catalog.stated import STATED, is_stated
from vr_eval.config.cell import Cell
from vr_eval.config.grid import load_grid
from vr_eval.config.identity import checkpoint_id
from vr_eval.errors import InputError
from vr_eval.models.build import build_lvlm, cell_model
from vr_eval.models.config import LVLMConfig
from vr_eval.models.llava import describe
from vr_eval.models.lvlm import LVLM
from vr_eval.models.pretrained import check_sizes
from vr_eval.models.processor import Processor
from vr_eval.models.random_weights import published_without_weights

NAMES = [spec.name for spec in PRESETS]
MILLIONS = {
    "llava_next_qwen2_0_5b": (0.30, 0.494),
    "llava_next_qwen2_1_5b": (0.30, 1.54),
    "llava_next_qwen2_7b": (0.30, 7.62),
    "llava_next_vicuna_7b": (0.30, 6.74),
    "llava_1_5_7b": (0.30, 6.74),
    "llava_hd_vicuna_7b": (0.30, 6.74),
    "llava_onevision_0_5b": (0.40, 0.494),
    "llava_onevision_7b": (0.40, 7.62),
    "internvl3_1b": (0.30, 0.494 + 0.136),  # its head is not tied to its embeddings
}
"""Parameters of tower and decoder, in thousands of millions, as their cards and reports say."""


def drawn(name: str, projector: str | None = None, ratio: int = 1, refusion: str = "none", **more: Any) -> Cell:
    spec = BACKBONES[name]
    given = (spec.own_projector, spec.own_ratio) if projector is None else (projector, ratio)
    fields = {"pruning": "none", "seed": 0, "options": {}, "recipe": Recipe(), "random_weights": True} | more
    return Cell(name, *given, refusion, **fields)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"this asked the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(params=PRESETS, ids=lambda spec: spec.name)
def spec(request: pytest.FixtureRequest) -> BackboneSpec:
    return request.param


def parts_of(spec: BackboneSpec) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    with published_without_weights(spec) as local:
        if local.checkpoint is None:
            assert local.tower is not None
            assert local.decoder is not None
            return AutoConfig.from_pretrained(local.tower.name), AutoConfig.from_pretrained(local.decoder.name)
        content, _ = PreTrainedConfig.get_config_dict(local.checkpoint.name)
        config = describe(content, local.checkpoint).config
        return config.vision_config, config.text_config


def test_what_is_stated_has_the_sizes_that_the_preset_plans_with(spec: BackboneSpec) -> None:
    assert is_stated(spec)
    tower, decoder = parts_of(spec)
    tiling = spec.tiling.row if spec.tiling else None
    own = {"projector": spec.own_projector, "ratio": spec.own_ratio}
    config = LVLMConfig(tower, decoder, select_layer=spec.select_layer, tiling=tiling, **own)
    check_sizes(spec, config, spec.sources[-1])
    assert tower.num_attention_heads == spec.tower_heads


def test_what_is_stated_has_as_many_parameters_as_the_published_model(spec: BackboneSpec) -> None:
    """A wrong width of a feed-forward layer, a wrong vocabulary or a tie that is none would show."""
    with torch.device("meta"):
        tower, decoder = parts_of(spec)
        models = AutoModel.from_config(tower), AutoModelForCausalLM.from_config(decoder)
    counts = [sum(parameter.numel() for parameter in model.parameters()) / 1e9 for model in models]
    assert counts == pytest.approx(MILLIONS[spec.name], rel=0.04)


@pytest.mark.parametrize("name", NAMES)
def test_files_without_weights_are_read_by_transformers_as_published_ones(name: str) -> None:
    with published_without_weights(BACKBONES[name]) as local:
        if local.checkpoint is not None:
            processor = AutoProcessor.from_pretrained(local.checkpoint.name)
            assert isinstance(processor, Processor)
            tokenizer, vocabulary = processor.tokenizer, STATED[BACKBONES[name].sources[0].name].decoder["vocab_size"]
        else:
            assert local.decoder is not None
            tokenizer = AutoTokenizer.from_pretrained(local.decoder.name)
            vocabulary = STATED[BACKBONES[name].sources[-1].name].decoder["vocab_size"]
        assert max(tokenizer.get_vocab().values()) < vocabulary
        folder = Path((local.checkpoint or local.decoder or Source("")).name)
        assert (folder / "config.json").is_file()
    assert not folder.exists()


@pytest.mark.parametrize("name", NAMES)
def test_every_family_answers(name: str, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    small_preset(name, monkeypatch)
    own, processor = cell_model(drawn(name), None, Loading(dtype="bfloat16"))
    assert {parameter.dtype for parameter in own.parameters()} == {torch.bfloat16}
    assert answered(own, processor) == [4] * 3
    pooled, processor = cell_model(drawn(name, "avg_pool", 4, "vision_remember"), None)
    assert {parameter.dtype for parameter in pooled.parameters()} == {torch.float32}
    assert answered(pooled, processor) == [4] * 3


def answered(model: LVLM, processor: Any) -> list[int]:
    """New tokens of answers about one image, none, and one that needs several tiles."""
    asked = [image((60, 60)), None, image((400, 170), seed=1)]
    questions = []
    for number, shown in enumerate(asked):
        content = [{"type": "image", "image": shown}] if shown is not None else []
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": "What is <image> printed here?"}]}]
        how = {"max_new_tokens": 4, "min_new_tokens": 4}
        questions.append(Question("t", number, str(number), how, lambda messages=messages: messages))
    answers = Answerer(model.to_inference(), processor, batch_size=2).answer(questions)
    assert [answer.failure for answer in answers] == [""] * len(asked)
    return [answer.new_tokens for answer in answers]


def test_weights_are_a_function_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "llava_next_qwen2_0_5b"
    small_preset(name, monkeypatch)
    cell = drawn(name, "avg_pool", 4, "vision_remember")
    states = [build_lvlm(one)[0].state_dict() for one in (cell, cell, dataclasses.replace(cell, seed=1))]
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    differing = {key.split(".")[0] for key in first if not torch.equal(first[key], other[key])}
    assert differing == {"projector", "refusion", "image_newline"}
    assert first["language_model.model.layers.0.mlp.up_proj.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert bool((first["language_model.model.norm.weight"] == 1).all())


def test_the_embedded_backbone_can_be_random_too(no_network: None) -> None:
    cell = drawn("micro", "avg_pool", 4)
    model, processor = cell_model(cell, None)
    real, _ = build_lvlm(dataclasses.replace(cell, random_weights=False))
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}
    key = "language_model.model.embed_tokens.weight"
    assert not torch.equal(model.state_dict()[key], real.state_dict()[key])
    assert answered(model, processor) == [4] * 3


def test_random_cells_have_identities_of_their_own() -> None:
    for name in (*NAMES, "micro"):
        random = drawn(name)
        real = dataclasses.replace(random, random_weights=False)
        assert checkpoint_id(random) != checkpoint_id(real)
        assert random != real
        assert not random.trained
        assert not random.pretrained


@pytest.mark.parametrize(("field", "value", "key"), [("bits", 4, "--bits"), ("device_map", "auto", "--device-map")])
def test_what_only_loaded_weights_can_have_is_refused(
    field: str, value: Any, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_preset("llava_1_5_7b", monkeypatch)
    with pytest.raises(InputError, match=f"{key}: random weights are drawn on one device"):
        build_lvlm(drawn("llava_1_5_7b"), loading=Loading(**{field: value}))


def test_a_backbone_whose_shapes_nobody_stated_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(BACKBONES["llava_1_5_7b"], checkpoint=Source("someone/model"))
    monkeypatch.setitem(BACKBONES, "llava_1_5_7b", other)
    (tmp_path / "grid.yaml").write_text("name: a\nbackbone: llava_1_5_7b\ncells: [{projector: mlp}]\n")
    with pytest.raises(InputError) as caught:
        load_grid(tmp_path / "grid.yaml", random_weights=True)
    (problem,) = caught.value.problems
    assert "the shapes of llava_1_5_7b are not stated, so its weights cannot be drawn" in problem.render()
    assert "micro, llava_next_qwen2_0_5b" in str(problem.allowed)
    with pytest.raises(InputError, match="its shapes are not stated"):
        build_lvlm(drawn("llava_1_5_7b"))


def test_a_preset_that_stands_for_other_weights_is_not_taken_for_the_published_one() -> None:
    spec = BACKBONES["llava_next_qwen2_0_5b"]
    assert not is_stated(dataclasses.replace(spec, decoder_width=64))
    assert not is_stated(dataclasses.replace(spec, tower_depth=4))
    assert not is_stated(BACKBONES["micro"])
