"""Generation by explicit rules: whatever a checkpoint's files say, batched as alone, ended by every token that ends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.llava import NEXT_POINTS, PATCH, PX, SQUARE, image, ported, vision
from vr_eval.adapters.answering import Answerer
from vr_eval.adapters.questions import Question
from vr_eval.catalog.backbone import Source
from vr_eval.config.cell import Cell
from vr_eval.config.decoding import Decoding, Rules
from vr_eval.config.grid import load_grid
from vr_eval.models.build import build_lvlm
from vr_eval.models.checkpoints import load_checkpoint, save_checkpoint
from vr_eval.models.generation import Drawn, drawn_by, end_tokens, generation_config
from vr_eval.models.lvlm import LVLM
from vr_eval.models.made_tokenizers import made_tokenizer, write_tokenizer
from vr_eval.models.pretrained import load_pretrained
from vr_eval.models.processor import Processor

WILD = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "max_length": 4096,
    "num_beams": 2,
    "bad_words_ids": [[token] for token in range(5, 500, 2)],
}
"""Of the sort that published generation_config.json files hold, and worse."""
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
QUESTIONS = 6


def asked(number: int, **kwargs: Any) -> Question:
    """A question of its own length about an image of its own."""
    parts = [
        {"type": "image", "image": image((30, 40), number)},
        {"type": "text", "text": f"what is printed {'here ' * number}?"},
    ]
    given = {"max_new_tokens": 8} | kwargs
    return Question("t", number, f"w{number}", given, lambda: [{"role": "user", "content": parts}])


def answers(model: LVLM, processor: Processor, batch_size: int = 1, seed: int = 0, **decoding: Any) -> list[str]:
    answerer = Answerer(model, processor, batch_size=batch_size, decoding=Decoding(**decoding), seed=seed)
    return [answer.text for answer in answerer.answer([asked(number) for number in range(QUESTIONS)])]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-NeXT checkpoint whose generation_config.json decodes in its own way."""
    folder = tmp_path_factory.mktemp("published")
    ported("llava_next", folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | WILD))
    return folder


@pytest.fixture(scope="module")
def loaded(published: Path) -> tuple[LVLM, Processor]:
    return load_pretrained(Source(str(published)))


def test_a_checkpoint_has_no_say_in_how_answers_are_generated(
    published: Path, loaded: tuple[LVLM, Processor], tmp_path: Path
) -> None:
    model, processor = loaded
    expected = answers(model, processor)
    assert model.generation_config.to_diff_dict().keys() & WILD.keys() <= {"do_sample", "num_beams"}
    assert (model.generation_config.do_sample, model.generation_config.num_beams) == (False, 1)
    # Nor has one whose settings come back by another way.
    model.generation_config = GenerationConfig(**WILD, pad_token_id=0)
    assert answers(model, processor, batch_size=3) == expected
    assert model.generation_config.repetition_penalty == 1.3
    model.generation_config = GenerationConfig(pad_token_id=0)
    # What greedy search of the library itself gives.
    row = asked(0).load()[0]["content"]
    text = processor.apply_chat_template([{"role": "user", "content": row}], add_generation_prompt=True)
    inputs = processor(images=[row[0]["image"]], text=[text], return_tensors="pt")
    end = processor.tokenizer.eos_token_id
    made = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=end)[0]
    said = processor.tokenizer.decode(made[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said == expected[0]


def test_a_trained_cell_decodes_as_the_reference_and_saves_what_is_harmless(published: Path, tmp_path: Path) -> None:
    cells = described(tmp_path, f"checkpoint: {published}", "llava_next_vicuna_7b", depth=4, tiled=True)
    reference = answers(*build_lvlm(cells[0]))
    model, processor = build_lvlm(cells[0])
    save_checkpoint(model, processor, tmp_path / "out", {"checkpoint_id": "x"}, torch.float32)
    saved = json.loads((tmp_path / "out/generation_config.json").read_text())
    tokens = {"bos_token_id", "eos_token_id", "pad_token_id"}
    assert saved.keys() <= {"transformers_version", "do_sample", "num_beams", *tokens}
    assert not saved["do_sample"]
    assert answers(*load_checkpoint(tmp_path / "out")) == reference


def test_penalties_and_beams_are_the_library_s_own_and_batches_do_not_matter(loaded: tuple[LVLM, Processor]) -> None:
    model, processor = loaded
    plain = answers(model, processor)
    for decoding in (
        {"repetition_penalty": 1.5},
        {"num_beams": 3},
        {"num_beams": 3, "repetition_penalty": 1.5, "length_penalty": 2.0},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 8},
    ):
        alone = answers(model, processor, **decoding)
        assert answers(model, processor, batch_size=4, **decoding) == alone
        assert alone != plain or "min_new_tokens" in decoding


def test_drawing_is_seeded_by_question_and_cell_and_batches_do_not_matter(loaded: tuple[LVLM, Processor]) -> None:
    model, processor = loaded
    greedy = answers(model, processor)
    alone = answers(model, processor, temperature=1.5)
    assert answers(model, processor, batch_size=4, temperature=1.5) == alone
    assert alone != greedy
    assert answers(model, processor, seed=1, temperature=1.5) != alone
    assert answers(model, processor, batch_size=6, temperature=1.5, top_k=1) == greedy
    assert answers(model, processor, temperature=1e-6) == greedy
    alike = [dataclasses.replace(asked(0), doc_id=number) for number in range(4)]
    found = Answerer(model, processor, decoding=Decoding(temperature=1.5)).answer(alike)
    assert len({answer.text for answer in found}) > 1
    torch.manual_seed(1)  # drawing hangs on no state of the process
    assert answers(model, processor, batch_size=2, temperature=1.5) == alone


def test_a_question_asked_again_alone_draws_the_same(
    loaded: tuple[LVLM, Processor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = loaded
    expected = answers(model, processor, temperature=1.5)
    at_once = Answerer._generate_at_once

    def too_much(self: Answerer, prepared: Sequence[Any], rules: Rules) -> Any:
        if len(prepared) > 1:
            raise torch.OutOfMemoryError
        return at_once(self, prepared, rules)

    monkeypatch.setattr(Answerer, "_generate_at_once", too_much)
    assert answers(model, processor, batch_size=4, temperature=1.5) == expected


def test_tokens_are_drawn_by_their_probabilities_and_never_one_without() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 1.0, float("-inf"), 2.0, float("-inf")]])
    rows = 2000
    chosen = Drawn(range(rows))(torch.zeros(rows, 1, dtype=torch.long), logits.expand(rows, -1)).argmax(-1)
    shares = torch.bincount(chosen, minlength=6) / rows
    assert torch.allclose(shares, logits.softmax(-1)[0], atol=0.03)
    assert not shares[[0, 3, 5]].any()


def test_the_config_that_is_handed_over_is_whole() -> None:
    made = generation_config(Rules(max_new_tokens=7), (3, 4), 0)
    assert (made.max_new_tokens, made.max_length, made.eos_token_id, made.pad_token_id) == (7, None, [3, 4], 0)
    assert (made.do_sample, made.num_beams, made.repetition_penalty, made.no_repeat_ngram_size) == (False, 1, 1.0, 0)
    made.validate(strict=True)
    generation_config(Rules(num_beams=3, length_penalty=2.0), (3,), 0).validate(strict=True)


def described(folder: Path, weights: str, base: str, *, depth: int = 2, tiled: bool = False) -> tuple[Cell, ...]:
    """The cells of a grid that describes a tiny backbone."""
    points = f"{{pinpoints: {NEXT_POINTS}}}" if tiled else "null"
    text = f"""
name: own
backbone: {{name: own, from: {base}, {weights}, grid: {PX // PATCH}, image_px: {PX}, patch_px: {PATCH}, tower_depth: 4,
  tower_width: 16, tower_heads: 2, select_layer: 3, decoder_depth: {depth}, decoder_width: 32, dtype: float32,
  tiling: {points}}}
suites: [ocr]
cells: [{{projector: mlp}}]
"""
    (folder / "own.yaml").write_text(text)
    return load_grid(folder / "own.yaml").cells


def parts(kind: str, folder: Path) -> Cell:
    """A tower and a decoder in the layout of the hub, with a tokenizer of this kind, as a cell."""
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**vision("llava"))).save_pretrained(folder / "tower")
    CLIPImageProcessor(size={"shortest_edge": PX}, crop_size=SQUARE).save_pretrained(folder / "tower")
    words = made_tokenizer(kind)
    known = words.convert_tokens_to_ids
    out = folder / "decoder"
    sizes = {"vocab_size": len(words), "num_key_value_heads": 2, **SIZES}
    if kind == "qwen2":
        ends = [known("<|im_end|>"), known("<|endoftext|>")]
        Qwen2ForCausalLM(Qwen2Config(bos_token_id=ends[1], eos_token_id=ends[0], **sizes)).save_pretrained(out)
        generation = {"bos_token_id": ends[1], "pad_token_id": ends[1], "eos_token_id": ends, **WILD}
    else:
        # As Meta's: the configuration names the end of a text, the generation config the end of a turn too.
        ends, begin = [known("<|end_of_text|>"), known("<|eot_id|>")], known("<|begin_of_text|>")
        LlamaForCausalLM(LlamaConfig(bos_token_id=begin, eos_token_id=ends[0], **sizes)).save_pretrained(out)
        generation = {"bos_token_id": begin, "eos_token_id": ends, "do_sample": True, "top_p": 0.9}
    write_tokenizer(kind, out)
    (out / "generation_config.json").write_text(json.dumps(generation))
    template = "chatml" if kind == "qwen2" else "llama3"
    weights = f"tower: {folder / 'tower'}, decoder: {out}, template: {template}"
    return described(folder, weights, "llava_next_qwen2_0_5b")[0]


class Script(nn.Module):
    """A head that says given tokens, row by row, one a step."""

    def __init__(self, rows: Sequence[Sequence[int]], vocabulary: int) -> None:
        super().__init__()
        self.rows, self.vocabulary, self.step = rows, vocabulary, 0

    def forward(self, hidden: Tensor) -> Tensor:
        logits = torch.zeros(*hidden.shape[:-1], self.vocabulary)
        for number, row in enumerate(self.rows):
            logits[number, -1, row[min(self.step, len(row) - 1)]] = 9.0
        self.step += 1
        return logits


def test_the_token_that_stands_for_an_image_is_never_drawn(published: Path) -> None:
    model = load_pretrained(Source(str(published)))[0]
    vocabulary = model.language_model.lm_head.out_features
    token = model.config.image_token_id
    if token >= vocabulary:  # then it could not be
        token = model.config.image_token_id = vocabulary - 1
    model.language_model.lm_head = Script([[token]], vocabulary)
    rules = Rules(temperature=0.1, max_new_tokens=8)
    made = model.generate(
        torch.tensor([[1, 2, 3]]),
        generation_config=generation_config(rules, (), 0),
        logits_processor=drawn_by(rules, [0]),
    )[0, 3:].tolist()
    assert token not in made
    assert len(set(made)) > 1  # all others are as probable as each other


ENDS = {"qwen2": ("<|im_end|>", "<|endoftext|>"), "llama3": ("<|eot_id|>", "<|end_of_text|>")}


@pytest.mark.parametrize("kind", ENDS)
def test_every_token_that_ends_an_answer_does_also_after_training(kind: str, tmp_path: Path) -> None:
    model, processor = build_lvlm(parts(kind, tmp_path))
    words = processor.tokenizer
    assert set(end_tokens(model, processor)) == {words.convert_tokens_to_ids(end) for end in ENDS[kind]}
    save_checkpoint(model, processor, tmp_path / "out", {"checkpoint_id": "x"}, torch.float32)
    trained, again = load_checkpoint(tmp_path / "out")
    assert set(end_tokens(trained, again)) == set(end_tokens(model, processor))
    yes, no = (words(text, add_special_tokens=False)["input_ids"] for text in ("Yes.", "No, never."))
    rows = [[*yes, words.convert_tokens_to_ids(end), *no] for end in ENDS[kind]] + [no]
    trained.language_model.lm_head = Script(rows, len(words))
    found = Answerer(trained, again, batch_size=3).answer([asked(number) for number in range(3)])
    assert [answer.text for answer in found[:2]] == ["Yes.", "Yes."]
    assert [answer.new_tokens for answer in found] == [len(yes) + 1, len(yes) + 1, 8]
    assert found[2].text.startswith("No, never")
    assert not any(answer.failure for answer in found)


def test_an_end_that_only_the_chat_template_knows_ends_too(tmp_path: Path) -> None:
    cell = parts("llama3", tmp_path)
    config = json.loads((tmp_path / "decoder/tokenizer_config.json").read_text())
    config["eos_token"] = "<|end_of_text|>"
    (tmp_path / "decoder/tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "decoder/generation_config.json").unlink()
    model, processor = build_lvlm(cell)
    found = {processor.tokenizer.convert_ids_to_tokens(token) for token in end_tokens(model, processor)}
    assert found == {"<|end_of_text|>", "<|eot_id|>"}


def test_an_end_that_is_only_the_default_of_a_class_is_none(tmp_path: Path) -> None:
    cell = parts("llama3", tmp_path)
    config = json.loads((tmp_path / "decoder/config.json").read_text())
    del config["eos_token_id"]  # LlamaConfig's own default is 2, a letter in Llama 3's vocabulary
    (tmp_path / "decoder/config.json").write_text(json.dumps(config))
    (tmp_path / "decoder/generation_config.json").unlink()
    model, processor = build_lvlm(cell)
    assert model.config.text_config.eos_token_id == 2
    assert 2 not in end_tokens(model, processor)
