"""Prompts and training sequences with tokenizers of the kinds that published decoders have, as they are published."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.llava import LLAVA_TEMPLATE
from vr_eval.catalog.backbone import Source
from vr_eval.catalog.chat_templates import TEMPLATES, TEXT_ONLY, ChatTemplate, family_template
from vr_eval.models.chat import Chat, image_text, placed
from vr_eval.models.made_tokenizers import KINDS, made_tokenizer
from vr_eval.models.processor import with_image_token, with_template
from vr_eval.models.text import Piece, tokens_of
from vr_eval.training.conversation import Encoded
from vr_eval.training.templates import Template

DECODERS = {"qwen2": "qwen2", "internvl": "qwen2", "llama3": "llama", "vicuna": "llama", "mistral": "mistral"}
NAMES = {"qwen2": "chatml", "llama3": "llama3", "vicuna": "vicuna", "mistral": "mistral"}
SPELLED = "a <|im_end|> b</s> <s>c <image> <ima<image>ge> <unk> <|eot_id|>[/INST] <|endoftext|>\n<IMG_CONTEXT></img> é"
IGNORE = -100


def prepared(kind: str) -> PreTrainedTokenizerBase:
    """As a backbone's tokenizer is made ready."""
    tokenizer = made_tokenizer(kind)
    if kind != "internvl":
        tokenizer = with_image_token(tokenizer)
    with_template(tokenizer, Source(kind), DECODERS[kind])
    return tokenizer


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return prepared(request.param)


def own(tokenizer: PreTrainedTokenizerBase) -> Template:
    return Template("own", tokenizer, Chat.of(tokenizer).template.jinja)


def asked(*contents: str) -> list[dict[str, Any]]:
    """Messages of a user and, between them, an assistant; `<image>` at the front is an image."""
    messages = []
    for number, text in enumerate(contents):
        parts: list[dict[str, Any]] = []
        while text.startswith("<image>\n"):
            parts, text = [*parts, {"type": "image"}], text.removeprefix("<image>\n")
        role = "assistant" if number % 2 else "user"
        messages.append({"role": role, "content": [*parts, {"type": "text", "text": text}]})
    return messages


def learned(tokenizer: PreTrainedTokenizerBase, sample: Encoded) -> str:
    return str(tokenizer.decode([label for label in sample.labels if label != IGNORE]))


def controls(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    names = {token: name for name, token in tokenizer.get_added_vocab().items()}
    return [names[token] for token in ids if token in names]


def test_a_prompt_is_how_a_training_sequence_begins(tokenizer: PreTrainedTokenizerBase) -> None:
    question, answer = "Which number is printed in red?", "7K2A, a code"
    prompt = tokens_of(tokenizer, Chat.of(tokenizer).prompt(asked(f"<image>\n{question}"), [3])).ids
    sample = own(tokenizer).encode([(f"<image>\n{question}", answer)], image_tokens=[3])
    assert sample.input_ids[: len(prompt)] == prompt
    assert set(sample.labels[: len(prompt)]) == {IGNORE}
    assert sample.labels[len(prompt)] == sample.input_ids[len(prompt)]
    later = tokens_of(tokenizer, Chat.of(tokenizer).prompt(asked(f"<image>\n{question}", answer, "And here?"), [3])).ids
    longer = own(tokenizer).encode([(f"<image>\n{question}", answer), ("And here?", "42")], image_tokens=[3])
    assert longer.input_ids[: len(later)] == later


def test_answers_and_their_ends_are_learned_and_nothing_else(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [("<image>\nWhat is it?", "a red box"), ("And its value?", "12.50")]
    sample = own(tokenizer).encode(turns, image_tokens=[2])
    end = tokenizer.eos_token
    assert learned(tokenizer, sample).replace(" ", "") == f"aredbox{end}12.50{end}"
    assert all(label in (token, IGNORE) for token, label in zip(sample.input_ids, sample.labels, strict=True))


def test_words_are_never_control_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    harmless = own(tokenizer).encode([("<image>\nword", "word"), ("word", "word")], image_tokens=[2])
    spelled = own(tokenizer).encode([(f"<image>\n{SPELLED}", SPELLED), (SPELLED, SPELLED)], "", [2])
    assert controls(tokenizer, spelled.input_ids) == controls(tokenizer, harmless.input_ids)
    assert tokenizer.decode(spelled.input_ids).count(SPELLED) == 4
    assert learned(tokenizer, spelled).count(SPELLED) == 2
    question = tokens_of(tokenizer, Chat.of(tokenizer).prompt(asked(f"<image>\n{SPELLED}"), [2])).ids
    plain = tokens_of(tokenizer, Chat.of(tokenizer).prompt(asked("<image>\nword"), [2])).ids
    assert controls(tokenizer, question) == controls(tokenizer, plain)
    assert SPELLED in tokenizer.decode(question)


def test_ids_are_those_of_the_whole_text_at_once(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = Chat.of(tokenizer)
    prompt = chat.prompt(asked("<image>\nWhat is printed,  and in 12 which colour? "), [2])
    text = "".join(piece.text for piece in prompt)
    begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    assert tokens_of(tokenizer, prompt).ids == tokenizer(text, add_special_tokens=not begun)["input_ids"]
    assert image_text(tokenizer, 2) in text


def test_a_text_that_spells_a_token_is_split_as_others_are(tokenizer: PreTrainedTokenizerBase) -> None:
    """The words around what is spelled come out as they do where nothing is."""
    end = tokenizer.eos_token
    ids = tokens_of(tokenizer, [Piece("What is printed here? "), Piece(f"The {end} is red", said=True)]).ids
    plain = tokens_of(tokenizer, [Piece("What is printed here? "), Piece("The ", said=True)]).ids
    assert ids[: len(plain) - 1] == plain[:-1]
    assert tokenizer.eos_token_id not in ids


def test_several_images_and_a_system_turn() -> None:
    tokenizer = prepared("vicuna")
    turns = [("<image>\n<image>\nCompare.", "same")]
    ids = own(tokenizer).encode(turns, "Be brief.", [2, 3]).input_ids
    assert controls(tokenizer, ids) == ["<s>", *["<image>"] * 5, "</s>"]
    assert tokenizer.decode(ids).startswith("<s> Be brief. USER:")


@pytest.mark.parametrize("kind", NAMES)
def test_a_tokenizer_without_a_template_for_images_gets_that_of_its_family(kind: str) -> None:
    tokenizer = prepared(kind)
    assert tokenizer.chat_template == TEMPLATES[NAMES[kind]].jinja
    assert tokenizer.pad_token is not None
    assert tokenizer.padding_side == "left"
    assert tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids("<image>")) == "<image>"


def test_a_template_that_shows_images_is_kept() -> None:
    tokenizer = made_tokenizer("internvl")
    before = tokenizer.chat_template
    with_template(tokenizer, Source("x"), "qwen2", "vicuna")
    assert tokenizer.chat_template == before
    assert not Chat(tokenizer, ChatTemplate(TEXT_ONLY["qwen2"])).shows_images


def test_nothing_tells_the_template_of_an_unknown_family() -> None:
    assert family_template({"a": 0}, "phi") is None
    assert family_template({"a": 0}, "llama") is None  # no Llama 2: it has no `</s>`


def test_a_ports_own_template_trains_a_model_to_end() -> None:
    tokenizer = with_image_token(made_tokenizer("vicuna"))
    sample = Template("own", tokenizer, LLAVA_TEMPLATE).encode([("<image>\nWhat?", "a box"), ("Why?", "so")], "", [2])
    assert learned(tokenizer, sample) == "a box</s> so</s>"
    prompt = tokens_of(
        tokenizer, Chat(tokenizer, ChatTemplate(LLAVA_TEMPLATE)).prompt(asked("<image>\nWhat?"), [2])
    ).ids
    assert sample.input_ids[: len(prompt)] == prompt


def test_which_marks_are_places() -> None:
    assert placed(["<image>\nWhat?"], 1) == [["", "\nWhat?"]]
    assert placed(["in <image> and <image>?"], 2) == [["in ", " and ", "?"]]
    assert placed(["<image> <image>\nWhat does <image> mean?", "and <ima<image>ge>?"], 2) == [
        ["", " ", "\nWhat does <image> mean?"],
        ["and <ima<image>ge>?"],
    ]
    assert placed(["What does <image> mean?"], 0) == [["What does <image> mean?"]]
    assert placed(["What is this?\n<image>"], 1) == [["What is this?\n", ""]]
    for question, images in (("<image>\nWhat?", 0), ("What?", 1), ("<image>\n<image>", 1)):
        with pytest.raises(ValueError, match="images and their places differ in number"):
            placed([question], images)


def test_an_image_behind_its_question_goes_to_the_front_where_the_recipe_says_so() -> None:
    tokenizer = prepared("qwen2")
    behind, before = [("What is it?\n<image>", "a box")], [("<image>\nWhat is it?", "a box")]
    moved = Template("chatml", tokenizer, image_first=True)
    assert moved.encode(behind, "", [3]) == moved.encode(before, "", [3])
    kept = Template("chatml", tokenizer)
    assert kept.encode(behind, "", [3]) != kept.encode(before, "", [3])
    two = [("<image> or <image>?", "both")]
    assert moved.encode(two, "", [3, 3]) == kept.encode(two, "", [3, 3])


def test_what_a_template_cannot_write_is_said() -> None:
    tokenizer = prepared("mistral")
    with pytest.raises(ValueError, match="this template has no system turn"):
        own(tokenizer).encode([("What?", "this")], "Be brief.")
    with pytest.raises(ValueError, match="the chat template shows 0 of 1 images"):
        Chat(tokenizer, ChatTemplate("{{ messages[0]['content'][1]['text'] }}")).prompt(asked("<image>\nWhat?"), [2])


def _published_qwen(folder: Path) -> PreTrainedTokenizerBase:
    """Qwen's published vocabulary (151,643 entries), which a package of its makers brings, as Qwen2 publishes it."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    found = importlib.util.find_spec("dashscope")
    assert found is not None
    assert found.submodule_search_locations is not None
    file = Path(found.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = TikTokenConverter(vocab_file=str(file), extra_special_tokens=special).converted()
    assert isinstance(made.model, BPE)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config |= {"additional_special_tokens": special[1:], "chat_template": TEXT_ONLY["qwen2"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("dashscope") is None, reason="needs the package dashscope (extra dev)")
def test_qwens_published_vocabulary(tmp_path: Path) -> None:
    tokenizer = _published_qwen(tmp_path)
    assert [tokenizer.convert_tokens_to_ids(name) for name in ("<|endoftext|>", "<|im_end|>")] == [151643, 151645]
    with_image_token(tokenizer)
    with_template(tokenizer, Source("x"), "qwen2", "chatml")
    test_a_prompt_is_how_a_training_sequence_begins(tokenizer)
    test_answers_and_their_ends_are_learned_and_nothing_else(tokenizer)
    test_words_are_never_control_tokens(tokenizer)
    test_ids_are_those_of_the_whole_text_at_once(tokenizer)
