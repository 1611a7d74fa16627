"""Training sequences: answers and nothing else are supervised, and they read like the prompts of evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from vr_eval.catalog.backbones import MICRO
from vr_eval.micro.tokenizer import train_tokenizer
from vr_eval.models.lvlm import IGNORE
from vr_eval.training.data import collate
from vr_eval.training.templates import encode

TOKENIZER = train_tokenizer(["Which code is printed in red?", "What is the total?", "How many stars are there?"])
TURNS = [("Which code is red?", "7K2A"), ("What is the total?", "12.50")]


def written(tokenizer: Any, turns: Sequence[tuple[str, str]], image_tokens: int) -> tuple[list[int], list[int]]:
    """Token ids and labels of a conversation about an image, its ChatML written by hand and read part by part."""
    ids: list[int] = []
    labels: list[int] = []
    for number, (question, answer) in enumerate(turns):
        image = "" if number else "<image>" * image_tokens + "\n"
        head = f"<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n"
        prompt, reply, feed = (
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, f"{answer}<|im_end|>", "\n")
        )
        ids += prompt + reply + feed
        labels += [IGNORE] * len(prompt) + reply + [IGNORE] * len(feed)
    return ids, labels


@pytest.mark.parametrize("turns", [TURNS, TURNS[:1], [("Read it.", "one, 2\nThree:  4 %\n5"), ("And?", "")]])
def test_a_sequence_is_chatml(turns: list[tuple[str, str]]) -> None:
    sample = encode(TOKENIZER, turns, image_tokens=4)
    assert (sample.input_ids, sample.labels) == written(TOKENIZER, turns, image_tokens=4)


def test_the_files_of_the_embedded_tokenizer_come_out_as_they_ship(tmp_path: Path) -> None:
    """All but the vocabulary, which comes from the texts of the whole training set."""
    TOKENIZER.save_pretrained(tmp_path)
    assert MICRO.weights is not None
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in (MICRO.weights / "tokenizer").iterdir())
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (MICRO.weights / "tokenizer" / name).read_bytes()
    made, shipped = (json.loads((at / "tokenizer.json").read_text()) for at in (tmp_path, MICRO.weights / "tokenizer"))
    for content in (made, shipped):
        content["model"].pop("vocab"), content["model"].pop("merges")
    assert made == shipped


def test_only_answers_and_their_end_are_supervised() -> None:
    sample = encode(TOKENIZER, TURNS, image_tokens=4)
    supervised = [token for token, label in zip(sample.input_ids, sample.labels, strict=True) if label != IGNORE]
    assert TOKENIZER.decode(supervised) == "7K2A<|im_end|>12.50<|im_end|>"
    assert [label for label in sample.labels if label != IGNORE] == supervised


def test_a_training_prompt_is_the_chat_templates_prompt() -> None:
    (question, answer), *_ = TURNS
    sample = encode(TOKENIZER, [(question, answer)], image_tokens=1)
    first = next(place for place, label in enumerate(sample.labels) if label != IGNORE)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    prompt = TOKENIZER.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert TOKENIZER.decode(sample.input_ids[:first]) == prompt


def test_codes_are_read_glyph_by_glyph() -> None:
    assert len(TOKENIZER("7K2A", add_special_tokens=False)["input_ids"]) == 4


def test_any_text_comes_back_as_it_was() -> None:
    text = "Zürich 37 °C\n<b>|naïve|</b> 漢字 \t end"
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


def test_no_turn_and_too_long_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        encode(TOKENIZER, [], image_tokens=1)
    with pytest.raises(ValueError, match="longer than the limit of 10"):
        encode(TOKENIZER, TURNS, image_tokens=1, max_length=10)


def test_a_batch_is_padded_on_the_right_and_padding_is_not_supervised() -> None:
    import numpy as np

    samples = [encode(TOKENIZER, TURNS[:count], image_tokens=4) for count in (1, 2)]
    features = np.zeros((4, 1, 2), dtype=np.float16)
    rows = [{"input_ids": s.input_ids, "labels": s.labels, "features": features} for s in samples]
    batch = collate(rows, TOKENIZER.pad_token_id)
    short = len(samples[0].input_ids)
    assert batch["attention_mask"].sum(1).tolist() == [short, len(samples[1].input_ids)]
    assert (batch["labels"][0, short:] == IGNORE).all()
    assert batch["vision_features"].shape == (2, 4, 1, 2)
    assert batch["vision_features"].dtype == torch.float32
