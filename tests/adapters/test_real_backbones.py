"""A LLaVA checkpoint, asked by the harness, answers as transformers' own class asked one question at a time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.adapters.world import TASKS
from tests.internvl import internvl
from tests.llava import KINDS, SIZES, image, ported, tiny_preset
from vr_eval.adapters import lmms
from vr_eval.adapters.answering import Answerer, prepare
from vr_eval.adapters.lmms_tasks import load_tasks
from vr_eval.adapters.questions import Question
from vr_eval.catalog.backbone import Source
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.catalog.recipe import Recipe
from vr_eval.config.cell import Cell
from vr_eval.errors import InputError
from vr_eval.models.build import build_lvlm, set_training_free
from vr_eval.models.checkpoints import load_checkpoint, open_model
from vr_eval.models.feature_store import FeatureStore
from vr_eval.runs.training import train_missing

ASKED = [(0,), (1,), (5, 2), (), (3,), (4, 6)]
"""Numbers of the images of each question."""


def messages(numbers: tuple[int, ...]) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "image", "image": image(SIZES[n], seed=n)} for n in numbers]
    return [{"role": "user", "content": [*content, {"type": "text", "text": f"what is printed {sum(numbers)}?"}]}]


@pytest.mark.parametrize("kind", [*KINDS, "internvl"])
@pytest.mark.parametrize("store", [FeatureStore(), None], ids=["stored", "unstored"])
def test_answers_in_batches_are_those_of_transformers(kind: str, store: FeatureStore | None, tmp_path: Path) -> None:
    source = internvl(tmp_path) if kind == "internvl" else ported(kind, tmp_path)
    ours, processor = open_model(source.name)
    answerer = Answerer(ours.to_inference(), processor, batch_size=4, store=store)
    how = {"max_new_tokens": 5, "until": ["\n\n"]}
    questions = [Question("t", i, str(i), how, lambda n=n: messages(n)) for i, n in enumerate(ASKED)]
    answers = answerer.answer(questions)
    again = answerer.answer(questions)
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    reader = AutoProcessor.from_pretrained(tmp_path)
    for numbers, answer, second in zip(ASKED, answers, again, strict=True):
        assert answer.failure == ""
        text = reader.apply_chat_template(messages(numbers), add_generation_prompt=True)
        images = [[image(SIZES[n], seed=n) for n in numbers]] if numbers else None
        inputs = reader(images=images, text=[text], return_tensors="pt")
        shown = {"pad_token_id": 0, "suppress_tokens": [reader.image_token_id], "eos_token_id": 2}
        with torch.no_grad():
            out = theirs.generate(**inputs, max_new_tokens=5, do_sample=False, **shown)
        expected = reader.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer.text == second.text == expected.split("\n\n")[0]


def test_lmms_eval_asks_another_family(root: Path, tmp_path: Path) -> None:
    """As `lmms-eval --model vr_eval --model_args pretrained=DIR` does it."""
    lm = lmms.VrEval(internvl(tmp_path / "hub").name, batch_size=4)
    result = lmms.evaluate(lm, load_tasks([TASKS[0]])[TASKS[0]], 6, "pretrained=x")
    assert [question.answer.failure for question in result.questions] == [""] * 6
    assert {type(question.score) for question in result.questions} == {float}


def test_lmms_eval_decodes_by_the_same_rules(root: Path, tmp_path: Path) -> None:
    """`--model_args .., num_beams=3`, which win over the task, as its own `--gen_kwargs` change that."""
    name, task = ported("llava", tmp_path).name, load_tasks([TASKS[0]])[TASKS[0]]

    def said(gen: dict[str, Any], **arguments: Any) -> list[str]:
        task.set_config(key="generation_kwargs", value=gen, update=True)
        result = lmms.evaluate(lmms.VrEval(name, batch_size=4, **arguments), task, 6, "pretrained=x")
        return [question.answer.text for question in result.questions]

    plain = said({})
    asked = said({"repetition_penalty": 1.7})
    assert asked != plain
    assert said({"repetition_penalty": 1.0}, repetition_penalty=1.7) == asked
    assert said({"repetition_penalty": 1.7}, repetition_penalty=1) == plain
    assert said({}, repetition_penalty=1, temperature=1.5) != said({}, repetition_penalty=1, temperature=1.5, seed=1)
    with pytest.raises(InputError, match=r"--model_args: temperatur: unknown key .* did you mean 'temperature'"):
        lmms.VrEval(name, temperatur=1)


def test_llama_prompts_begin_with_their_own_token(tmp_path: Path) -> None:
    """Whether or not the template writes it, and once."""
    ours, processor = open_model(ported("llava", tmp_path).name)
    words = processor.tokenizer
    ids = prepare(messages((0,)), processor, ours).ids
    assert words.bos_token == "<s>"
    assert [place for place, token in enumerate(ids) if token == words.bos_token_id] == [0]
    processor.chat_template = "{{ bos_token }}" + processor.chat_template
    assert prepare(messages((0,)), processor, ours).ids == ids


@pytest.fixture
def tiny_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    return tiny_preset(tmp_path / "hub", monkeypatch)


def cell(projector: str, ratio: int, refusion: str = "none", pruning: str = "none", **options: Any) -> Cell:
    given = {pruning if pruning != "none" else refusion: options} if options else {}
    return Cell("llava_next_vicuna_7b", projector, ratio, refusion, pruning, 0, given, Recipe())


def logits(model: Any, processor: Any) -> torch.Tensor:
    inputs = processor(images=[image(SIZES[5])], text=["<image>what is it?"], return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits


def test_the_uncompressed_cell_of_a_checkpoint_is_the_checkpoint(tiny_next: Source) -> None:
    """Nothing is trained and nothing copied; pruning runs on it as on any checkpoint."""
    said: list[str] = []
    bare, pruned = cell("mlp", 1), cell("mlp", 1, pruning="fastv", keep_ratio=0.5)
    folder = train_missing(bare, said.append)
    assert said == []
    assert train_missing(pruned, said.append) == folder
    assert [file.name for file in folder.iterdir()] == ["checkpoint.json"]
    model, processor = load_checkpoint(folder)
    expected = logits(*open_model(tiny_next.name))
    assert torch.equal(logits(model, processor), expected)
    set_training_free(model, pruned)
    assert logits(model, processor).shape[1] < expected.shape[1]


def test_a_compressed_cell_starts_from_the_checkpoint_it_compresses(tiny_next: Source) -> None:
    base, _ = open_model(tiny_next.name)
    remembering, processor = build_lvlm(cell("mlp", 1, "vision_remember", heads=4))
    assert torch.equal(logits(remembering, processor), logits(base, processor))
    pooled, processor = build_lvlm(cell("avg_pool", 9))
    assert torch.equal(pooled.projector.mlp[0].weight, base.projector.mlp[0].weight)
    assert torch.equal(pooled.image_newline, base.image_newline)
    assert logits(pooled, processor).shape[1] < logits(base, open_model(tiny_next.name)[1]).shape[1] / 5


def test_parts_are_put_together_with_tokenizer_and_processor(
    tiny_next: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.llava import original, tokenizer

    original(tmp_path)
    base, _ = open_model(tiny_next.name)
    base.language_model.save_pretrained(tmp_path / "decoder")
    words = tokenizer()
    words.chat_template = None
    words.save_pretrained(tmp_path / "decoder")
    tiny = BACKBONES["llava_next_vicuna_7b"]
    parts = {"tower": Source(str(tmp_path / "clip")), "decoder": Source(str(tmp_path / "decoder"))}
    for name, tiling in (("tiled", tiny.tiling), ("whole", None)):
        spec = dataclasses.replace(tiny, name=name, checkpoint=None, tiling=tiling, **parts)
        monkeypatch.setitem(BACKBONES, name, spec)
        model, processor = build_lvlm(dataclasses.replace(cell("avg_pool", 4), backbone=name))
        assert torch.isfinite(logits(model, processor)).all()
        assert (model.image_newline is not None) == (name == "tiled")
        assert "<image>" in processor.apply_chat_template(messages((0,)), tokenize=False)


def test_weights_of_other_sizes_than_the_preset_are_refused(tiny_next: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(BACKBONES["llava_next_vicuna_7b"], decoder_width=64, tower_depth=24, select_layer=23)
    monkeypatch.setitem(BACKBONES, wrong.name, wrong)
    with pytest.raises(InputError) as caught:
        build_lvlm(cell("avg_pool", 4))
    assert {problem.key for problem in caught.value.problems} == {"decoder_width", "tower_depth", "select_layer"}
    assert "these are not the weights of llava_next_vicuna_7b (given: 32; allowed: 64)" in str(caught.value)
