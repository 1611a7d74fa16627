"""Tokenizers of the kinds that published decoders have, made here: for true shapes without weights, and for tests.

Each is trained on a few sentences and written as such a checkpoint publishes it, down to what it lacks: Qwen2 and Llama
know no `<image>`, Vicuna ships a sentencepiece model and no chat template, Llama 3 a post-processor that begins every
text. What is read back is therefore what transformers makes of the real files. Vocabularies are smaller than the real
ones, so every id has a place in the real embeddings.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vr_eval.catalog.chat_templates import TEMPLATES, TEXT_ONLY

PIECES = 600
"""Entries of a vocabulary before the tokens that are added to it (ours)."""

TEXT = (
    "What is printed in this image? Answer the question using a single word or phrase.",
    "The chart shows the total of each year; which bar is the tallest, and what is its value in 2024?",
    "user assistant system USER ASSISTANT: a chat between a curious user and an artificial intelligence assistant",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "How many people are in the picture, and what do they hold? Describe it in detail, step by step.",
    "Read the words on the sign: OPEN 24 HOURS, EXIT, No. 7, $3.50, 12:30, 100%, A-B_c/d (x, y) [z] {w} <v> #1 @home",
    "It is a table with three rows and two columns. Yes. No. Unanswerable. The answer is box, red, left, dog or cat.",
    "Straße, naïve café, señor, Größe; 図表の合計は何ですか 图中有什么文字 Что написано на вывеске?",
)
"""What they are trained on (ours)."""

_GPT4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How words are split before they are encoded (facts of the published tokenizer.json files): Qwen2 takes digits one by
one, Llama 3 up to three at once."""

_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def made_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    """A tokenizer of one of `KINDS`, as `AutoTokenizer` reads it from its files; the same one every time.

    Raises:
        KeyError: `kind` is none of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(kind, Path(folder))
        return AutoTokenizer.from_pretrained(folder)


def write_tokenizer(kind: str, folder: Path) -> None:
    """Write the files of a tokenizer of one of `KINDS` to `folder`, in the layout of a published checkpoint.

    Raises:
        KeyError: `kind` is none of them.
    """
    writer = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    writer(folder)


def _qwen2(folder: Path) -> None:
    """ChatML tokens, digits one by one, no token of padding."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    _byte_level(_GPT4_SPLIT % "", special, normalizers.NFC()).save(str(folder / "tokenizer.json"))
    _config(
        folder,
        tokenizer_class="Qwen2Tokenizer",
        eos_token="<|im_end|>",
        pad_token=None,
        additional_special_tokens=special[1:],
        chat_template=TEXT_ONLY["qwen2"],
    )


def _internvl(folder: Path) -> None:
    """Qwen2's, with tokens for images and around them, and its template in a file of its own."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *INTERNVL_TOKENS.values()]
    _byte_level(_GPT4_SPLIT % "", special, normalizers.NFC()).save(str(folder / "tokenizer.json"))
    _config(
        folder,
        tokenizer_class="Qwen2Tokenizer",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=INTERNVL_TOKENS,
        **INTERNVL_TOKENS,
    )
    (folder / "chat_template.jinja").write_text(
        TEMPLATES["chatml"].showing(INTERNVL_TOKENS["context_image_token"]).jinja
    )


def _llama3(folder: Path) -> None:
    """Every text begins with a token of its own, which the template writes too; no token of padding."""
    begin = "<|begin_of_text|>"
    special = [begin, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = _byte_level(_GPT4_SPLIT % "{1,3}", special)
    own = (begin, tokenizer.token_to_id(begin))
    tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[own])
    content = json.loads(tokenizer.to_str())
    content["model"]["ignore_merges"] = True
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    _config(
        folder,
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token=begin,
        eos_token="<|eot_id|>",
        chat_template=TEXT_ONLY["llama3"],
    )


def _vicuna(folder: Path) -> None:
    """A sentencepiece model with bytes for what it does not know; no chat template, padding is the unknown token."""
    named = {name: _token(token) for name, token in _LLAMA.items()}
    _llama(folder, **named, pad_token="<unk>", clean_up_tokenization_spaces=False)


def _mistral(folder: Path) -> None:
    """The same kind of model; questions stand in `[INST]`, which is plain text; no token of padding."""
    _llama(folder, **_LLAMA, pad_token=None, chat_template=TEXT_ONLY["mistral"])


def _llama(folder: Path, **own: Any) -> None:
    (folder / "tokenizer.model").write_bytes(_sentencepiece())
    kind = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, "add_eos_token": False}
    _config(folder, **kind, **own)


KINDS: dict[str, Callable[[Path], None]] = {
    "qwen2": _qwen2,
    "internvl": _internvl,
    "llama3": _llama3,
    "vicuna": _vicuna,
    "mistral": _mistral,
}
"""By name: what writes the files of such a tokenizer."""


def _byte_level(split: str, special: list[str], normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    """Byte-level BPE; the tokens of `special` come after its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    words = pre_tokenizers.Split(Regex(split), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=PIECES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return tokenizer


def _sentencepiece() -> bytes:
    """BPE with byte fallback, as Llama's; `<unk>`, `<s>` and `</s>` are its first three pieces."""
    made = io.BytesIO()
    sentences: Iterator[str] = iter(TEXT * 4)
    SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=made,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        hard_vocab_limit=False,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    return made.getvalue()


def _token(content: str) -> dict[str, Any]:
    """A special token as older tokenizer_config.json files spell it out."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"__type": "AddedToken", "content": content, **flags}


def _config(folder: Path, **content: Any) -> None:
    text = json.dumps({"model_max_length": 4096, **content}, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
