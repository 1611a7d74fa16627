"""Pieces of a text as token ids: the tokens of a template are control tokens, what somebody said is text.

A tokenizer finds its control tokens (`<|im_end|>`, `</s>`, `<image>`) wherever their characters stand, so a question
that spells one would end its own turn. Where that happens, the text is read by a twin of the tokenizer whose control
tokens have other, secret names, which the template's pieces then spell: everything else stays as it was, down to how
words at a border are split.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Piece:
    """A part of a text.

    Attributes:
        text: Its characters.
        said: Somebody's words: whatever they spell, none of it is a control token.
        learned: Whether training supervises it.
    """

    text: str
    said: bool = False
    learned: bool = False


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text, and of each whether any of it is learned."""

    ids: list[int]
    learned: list[bool]


def tokens_of(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece]) -> Tokens:
    """`pieces` one after the other as token ids, tokenized as one text.

    The text begins with the tokenizer's own first token, if it has one, whether or not the pieces write it.

    Raises:
        TypeError: a tokenizer that does not know where in a text its tokens stand (not of the `tokenizers` library).
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(f"{type(tokenizer).__name__} is no tokenizer of the `tokenizers` library")
    text, spans = _joined(pieces, str)
    # Llama's sequences begin with a token of their own, which not every template writes.
    bare = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token) and not pieces[0].said
    found = tokenizer(text, add_special_tokens=not bare, return_offsets_mapping=True)
    ids, offsets = list(found["input_ids"]), found["offset_mapping"]
    if _spelled(tokenizer, ids, _inside(offsets, spans, [piece.said for piece in pieces]), pieces):
        twin = _twin(tokenizer)
        text, spans = _joined(pieces, twin.rename)
        read = twin.backend.encode(text, add_special_tokens=not bare)
        ids, offsets = [twin.ids.get(token, token) for token in read.ids], read.offsets
    return Tokens(ids, _inside(offsets, spans, [piece.learned for piece in pieces]))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Every token that a tokenizer calls special, under a name of its own or as an added one."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def _joined(pieces: Sequence[Piece], rename: Callable[[str], str]) -> tuple[str, list[tuple[int, int]]]:
    """The whole text, control tokens renamed, and where each piece begins and ends in it."""
    text, spans = "", []
    for piece in pieces:
        begin = len(text)
        text += piece.text if piece.said else rename(piece.text)
        spans.append((begin, len(text)))
    return text, spans


def _inside(offsets: Sequence[tuple[int, int]], spans: list[tuple[int, int]], wanted: Sequence[bool]) -> list[bool]:
    """Of each token, by its place in the text, whether it overlaps a wanted span."""
    ahead = iter([span for span, want in zip(spans, wanted, strict=True) if want and span[1] > span[0]])
    span = next(ahead, None)
    found = []
    for begin, end in offsets:
        while span is not None and span[1] <= begin:
            span = next(ahead, None)
        found.append(span is not None and begin < end and end > span[0])
    return found


def _spelled(tokenizer: PreTrainedTokenizerBase, ids: list[int], said: list[bool], pieces: Sequence[Piece]) -> bool:
    """Whether somebody's words came out as a control token."""
    control = set(tokenizer.get_added_vocab().values())
    unknown = tokenizer.unk_token_id  # that of characters without a token, unless it is spelled
    if tokenizer.unk_token and any(piece.said and tokenizer.unk_token in piece.text for piece in pieces):
        unknown = None
    return any(inside and token in control and token != unknown for token, inside in zip(ids, said, strict=True))


@dataclass(frozen=True)
class _Twin:
    """A tokenizer whose control tokens have secret names."""

    backend: Tokenizer
    names: dict[str, str]
    ids: dict[int, int]
    """Token ids that are others than those of the tokenizer itself."""

    def rename(self, text: str) -> str:
        """`text` of a template with its control tokens by their secret names."""
        longest = sorted(self.names, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest)), lambda found: self.names[found[0]], text)


_TWINS: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, _Twin]] = WeakKeyDictionary()


def _twin(tokenizer: PreTrainedTokenizerBase) -> _Twin:
    size, twin = _TWINS.get(tokenizer, (0, None))
    if twin is None or size != len(tokenizer):  # a token was added meanwhile
        twin = _made_twin(tokenizer)
        _TWINS[tokenizer] = (len(tokenizer), twin)
    return twin


def _made_twin(tokenizer: PreTrainedTokenizerBase) -> _Twin:
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    content["truncation"] = content["padding"] = None
    # A character of private use in front, so that nothing joins it to a word.
    names = {token["content"]: f"\ue000{secrets.token_hex(8)}" for token in content["added_tokens"]}
    for token in content["added_tokens"]:
        token["content"] = names[token["content"]]
    model = content["model"]
    kept = {tokenizer.unk_token}  # the model's own name for what it does not know
    if isinstance(model["vocab"], dict):
        hidden = {old: new for old, new in names.items() if old not in kept}
        model["vocab"] = {hidden.get(entry, entry): token for entry, token in model["vocab"].items()}
        if "merges" in model:
            model["merges"] = [merge for merge in model["merges"] if not _makes(merge, hidden)]
    backend = Tokenizer.from_str(json.dumps(content))
    own = tokenizer.get_added_vocab()
    found = [(backend.token_to_id(new), own[old]) for old, new in names.items() if old in own]
    return _Twin(backend, names, {here: there for here, there in found if here is not None and here != there})


def _makes(merge: str | Sequence[str], hidden: dict[str, str]) -> bool:
    """Whether a merge of BPE reads or makes a hidden entry."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return bool({left, right, left + right} & hidden.keys())
