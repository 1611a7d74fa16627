"""The micro decoder's tokenizer: byte-level BPE whose words come from the suites' own questions.

Digits and capitals stay single tokens, so that a printed code is read glyph by glyph; any other text still encodes.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vr_eval.catalog.chat_templates import IMAGE, TEMPLATES

SPECIAL = ("<|endoftext|>", *TEMPLATES["chatml"].marks, IMAGE)
VOCABULARY = 512
_SPLIT = r" ?\p{Ll}+| ?\p{Lu}(?=\p{Ll})\p{Ll}*|\p{Lu}|\p{N}|\s|[^\s\p{L}\p{N}]"


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A Qwen-like tokenizer with ChatML template, trained on `texts`; deterministic."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, "user", "assistant", "system"] * 1, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        eos_token=TEMPLATES["chatml"].end,
        additional_special_tokens=[SPECIAL[1], IMAGE],
        padding_side="left",
    )
    wrapped.chat_template = TEMPLATES["chatml"].jinja
    return wrapped
