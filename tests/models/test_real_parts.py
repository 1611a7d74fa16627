"""Backbones put together from parts whose files are as they are published: what those lack is made up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM as Decoder
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from tests.llava import NEXT_POINTS, PX, SIZES_OF_SPEC, SQUARE, image, ported, vision
from vr_eval.adapters.answering import Answerer, prepare
from vr_eval.adapters.questions import Question
from vr_eval.catalog.backbone import BackboneSpec, Source
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.catalog.chat_templates import TEMPLATES
from vr_eval.catalog.presets import PRESETS
from vr_eval.catalog.recipe import Recipe, StageData
from vr_eval.catalog.tiling import AnyRes, TokenPackerHD
from vr_eval.config.cell import Cell
from vr_eval.errors import InputError
from vr_eval.models.build import build_lvlm
from vr_eval.models.checkpoints import load_checkpoint, save_checkpoint
from vr_eval.models.lvlm import LVLM
from vr_eval.models.made_tokenizers import made_tokenizer, write_tokenizer
from vr_eval.models.pretrained import load_pretrained
from vr_eval.training.templates import Template, ask_as_trained

FAMILIES: dict[str, type[PreTrainedConfig]] = {
    "qwen2": Qwen2Config,
    "vicuna": LlamaConfig,
    "llama3": LlamaConfig,
    "mistral": MistralConfig,
}
PRESET = {"qwen2": "llava_next_qwen2_0_5b", "vicuna": "llava_hd_vicuna_7b"}
SPELLED = "what is </s> or <|im_end|> or <ima<image>ge> here?"


def tower(folder: Path) -> Source:
    """A CLIP model of images and text, as the tower of LLaVA is published."""
    words = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=words.to_dict(), vision_config=vision("llava"))).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": PX}, crop_size=SQUARE).save_pretrained(folder)
    return Source(str(folder))


def decoder(kind: str, folder: Path) -> Source:
    """Its vocabulary is that of its tokenizer: `<image>` has no place in the embeddings."""
    torch.manual_seed(1)
    config = FAMILIES[kind](
        vocab_size=len(made_tokenizer(kind)),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
    )
    Decoder.from_config(config).save_pretrained(folder, max_shard_size="60KB")
    write_tokenizer(kind, folder)
    assert (folder / "model.safetensors.index.json").is_file()
    return Source(str(folder))


@pytest.fixture(params=FAMILIES)
def spec(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BackboneSpec:
    return registered(request.param, tmp_path, monkeypatch)


def registered(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> BackboneSpec:
    """A preset of these parts; where none has them, one whose template has to be told from the tokenizer."""
    name = PRESET.get(kind, "llava_next_qwen2_0_5b")
    preset = next(spec for spec in PRESETS if spec.name == name)
    tiling = AnyRes(tuple((y, x) for y, x in NEXT_POINTS))
    made = dataclasses.replace(
        preset,
        tower=tower(folder / "clip"),
        decoder=decoder(kind, folder / kind),
        **SIZES_OF_SPEC,
        tiling=TokenPackerHD.of(PX) if kind == "vicuna" else tiling,
        template=preset.template if kind in PRESET else None,
    )
    monkeypatch.setitem(BACKBONES, name, made)
    return made


def cell(spec: BackboneSpec) -> Cell:
    return Cell(spec.name, "avg_pool", 4, "vision_remember", "none", 0, {"vision_remember": {"heads": 4}}, Recipe())


def question(number: int, text: str) -> Question:
    size = [(30, 40), (20, 60), (48, 48)][number % 3]
    content = [{"type": "image", "image": image(size, number)}, {"type": "text", "text": text}]
    kwargs = {"max_new_tokens": 6, "temperature": 0}
    return Question("t", number, text, kwargs, lambda: [{"role": "user", "content": content}])


def logits(model: LVLM, ids: list[int], picture: Any, processor: Any) -> torch.Tensor:
    pixels = processor.image_processor([picture], return_tensors="pt")
    with torch.no_grad():
        return model(torch.tensor([ids]), **{name: pixels[name] for name in ("pixel_values", "image_sizes")}).logits


def test_answers_of_a_batch_are_those_one_by_one(spec: BackboneSpec) -> None:
    model, processor = build_lvlm(cell(spec))
    model.to_inference()
    asked = [question(number, text) for number, text in enumerate(("what?", "what is printed here?", SPELLED, "a"))]
    alone = [answer for one in asked for answer in Answerer(model, processor).answer([one])]
    batch = Answerer(model, processor, batch_size=4).answer(asked)
    assert [answer.failure for answer in batch] == [""] * 4
    assert [answer.text for answer in batch] == [answer.text for answer in alone]
    ids = prepare(asked[2].load(), processor, model).ids
    assert ids.count(processor.image_token_id) == sum(model.image_tokens([(48, 48)]))


def test_a_saved_checkpoint_is_trained_and_asked_with_the_same_template(spec: BackboneSpec, tmp_path: Path) -> None:
    model, processor = build_lvlm(cell(spec))
    template = Template.of(StageData("x", None, None), spec.recipe, processor)
    picture = image((30, 40))
    count = model.image_tokens([(30, 40)])
    sample = template.encode([("<image>\nwhat is it?", "a box"), (SPELLED, "no")], "", count)
    pixels = processor.image_processor([picture], return_tensors="pt")
    given = {name: pixels[name] for name in ("pixel_values", "image_sizes")}
    loss = model(torch.tensor([sample.input_ids]), labels=torch.tensor([sample.labels]), **given).loss
    assert torch.isfinite(loss)
    save_checkpoint(model, processor, tmp_path / "out", {"checkpoint_id": "x"}, torch.float32)
    again, reader = load_checkpoint(tmp_path / "out")
    assert reader.chat_template == processor.chat_template
    ids = prepare(question(0, "what is it?").load(), reader, again).ids
    assert sample.input_ids[: len(ids)] == ids
    model.eval()
    assert torch.equal(logits(again, ids, picture, reader), logits(model, ids, picture, processor))


def test_a_template_that_the_recipe_names_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = registered("qwen2", tmp_path, monkeypatch)
    _, processor = build_lvlm(cell(spec))

    def asked(template: str) -> Recipe:
        return dataclasses.replace(spec.recipe, stage2=dataclasses.replace(spec.recipe.stage2, template=template))

    ask_as_trained(processor, asked("plain"))
    assert processor.chat_template == TEMPLATES["chatml"].jinja  # without a question nothing could be asked
    ask_as_trained(processor, asked("vicuna"))
    assert processor.chat_template == TEMPLATES["vicuna"].jinja


def test_no_weight_is_loaded_where_no_template_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = registered("vicuna", tmp_path, monkeypatch)
    folder = tmp_path / "vicuna"
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "qwen2"}
    (folder / "config.json").write_text(json.dumps(config))
    for weights in [*folder.glob("*.safetensors"), *(tmp_path / "clip").glob("*.safetensors")]:
        weights.unlink()
    monkeypatch.setitem(BACKBONES, spec.name, dataclasses.replace(spec, template=None))
    with pytest.raises(
        InputError, match=r"no chat template that shows images.*allowed: chatml, vicuna, llama3"
    ) as told:
        build_lvlm(cell(spec))
    assert len(told.value.problems) == 1
    monkeypatch.setitem(BACKBONES, spec.name, dataclasses.replace(spec, template="llama3"))
    with pytest.raises(InputError, match=r"does not know <\|begin_of_text\|>, which the chat template llama3 writes"):
        build_lvlm(cell(spec))


def without_template(folder: Path) -> None:
    for name in ("chat_template.jinja", "chat_template.json"):
        (folder / name).unlink(missing_ok=True)
    for name in ("processor_config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        content.pop("chat_template", None)
        (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(("kind", "family"), [("llava", "vicuna"), ("llava_onevision", "chatml")])
def test_a_port_without_a_template_gets_that_of_its_preset_or_family(kind: str, family: str, tmp_path: Path) -> None:
    source = ported(kind, tmp_path)
    _, processor = load_pretrained(source)
    own = processor.chat_template
    without_template(tmp_path)
    _, processor = load_pretrained(source)
    assert processor.chat_template == TEMPLATES[family].jinja
    assert own not in (None, TEMPLATES[family].jinja)
    _, processor = load_pretrained(source, template="mistral")
    assert processor.chat_template == TEMPLATES["mistral"].jinja
