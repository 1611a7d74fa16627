"""Conversations as pieces of text, written by a chat template: prompts of evaluations and sequences of training alike.

What somebody said is taken out before a template renders and put back behind it, so that a template changes no word of
it, and tokenizing knows which characters are the template's own (models/text.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from vr_eval.catalog.chat_templates import IMAGE, TEMPLATES, ChatTemplate
from vr_eval.models.text import Piece, special_tokens

Turns = Sequence[tuple[str, str]]
"""Questions, with `<image>` where an image stands, and their answers."""

_HELD = re.compile("\ue100(\\d+)\ue101")
"""What stands for words that were taken out; no template holds these characters."""
_ALONE = re.compile(rf"^[^\S\n]*(?:{IMAGE}[^\S\n]*)+$", re.MULTILINE)
"""A line of images and nothing else."""


@dataclass(frozen=True)
class Chat:
    """A chat template and the tokenizer whose tokens it writes."""

    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate

    @classmethod
    def of(cls, processor: Any) -> Chat:
        """The one that `processor`, or a tokenizer, carries; the default one of several."""
        carried = processor.chat_template
        jinja = carried.get("default") if isinstance(carried, dict) else carried
        return cls(getattr(processor, "tokenizer", processor), ChatTemplate(jinja or ""))

    @classmethod
    def named(cls, name: str, tokenizer: PreTrainedTokenizerBase) -> Chat:
        """The one of this name in `TEMPLATES`."""
        return cls(tokenizer, TEMPLATES[name].showing(mark_of(tokenizer)))

    @property
    def shows_images(self) -> bool:
        """Whether it has a place for an image in front of a question; templates of text alone have none."""
        asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}
        try:
            return bool(self.template.jinja) and bool(self.prompt([asked], [1]))
        except ValueError:
            return False

    def prompt(self, messages: Sequence[dict[str, Any]], image_tokens: Sequence[int]) -> list[Piece]:
        """What an answer to `messages` follows; `image_tokens`: how many tokens stand for each of their images.

        Raises:
            ValueError: the template shows another number of images, or cannot write such messages.
        """
        rendered = _Rendered.of(self, messages, add_generation_prompt=True)
        mark = mark_of(self.tokenizer)
        shown = sum(part.count(mark) for part in rendered.parts if isinstance(part, str))
        if shown != len(image_tokens):
            raise ValueError(f"the chat template shows {shown} of {len(image_tokens)} images")
        counts, pieces = iter(image_tokens), []
        for part in rendered.parts:
            if isinstance(part, int):
                pieces.append(Piece(rendered.said[part], said=True))
            else:
                pieces += self._shown(part.split(mark), counts)
        return pieces

    def dialogue(
        self, turns: Turns, system: str, image_tokens: Sequence[int], *, image_first: bool = False
    ) -> list[Piece]:
        """A whole conversation, its answers and their ends to be learned.

        Images stand where the questions have them (`placed`): line feeds around them are the data's. With
        `image_first` a question's only image goes to its front, a line feed behind it (LLaVA-NeXT's official code).

        Raises:
            ValueError: images and their places differ in number, or the template cannot write such a conversation.
        """
        asked = placed([question.strip() for question, _ in turns], len(image_tokens))
        if image_first:
            asked = [_image_first(texts) for texts in asked]
        texts = [*([("system", system)] if system else [])]
        for question, answer in turns:
            texts += [("user", question), ("assistant", answer)]
        messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in texts]
        rendered = _Rendered.of(self, messages)
        if [part for part in rendered.parts if isinstance(part, int)] != list(range(len(texts))):
            raise ValueError("the chat template does not show every turn of a conversation")
        counts, questions, pieces = iter(image_tokens), iter(asked), []
        parts = iter(rendered.parts)  # every second one is the template's own, the first and the last too
        for part in parts:
            if isinstance(part, str):
                pieces.append(Piece(part))
            elif texts[part][0] == "user":
                pieces += self._shown(next(questions), counts, said=True)
            elif texts[part][0] == "assistant":
                pieces += self._answer(pieces.pop().text, rendered.said[part], str(next(parts)))
            else:
                pieces.append(Piece(rendered.said[part], said=True))
        return pieces

    def _shown(self, texts: Sequence[str], counts: Iterator[int], *, said: bool = False) -> list[Piece]:
        """Texts with an image between each two of them."""
        kept = said and not self.template.asks
        pieces = [] if kept else [Piece(texts[0], said)]
        for text in texts[1:]:
            pieces.append(Piece(image_text(self.tokenizer, next(counts))))
            pieces += [] if kept else [Piece(text, said)]
        return pieces

    def _answer(self, before: str, answer: str, behind: str) -> list[Piece]:
        """An answer between two parts of a template: spaces in front of it and what ends it are learned with it."""
        head = before.rstrip(" ")
        end = self._end(behind)
        return [
            Piece(head),
            Piece(before[len(head) :], learned=True),
            Piece(answer, said=True, learned=True),
            # A template without an end would teach a model never to stop.
            Piece(end or self.tokenizer.eos_token or "", learned=True),
            Piece(behind[len(end) :]),
        ]

    def _end(self, behind: str) -> str:
        """What of the text behind an answer ends it, spaces in front included; empty if nothing does."""
        marks = {self.template.end} if self.template.end else special_tokens(self.tokenizer)
        text = behind.lstrip(" ")
        others = (self.tokenizer.bos_token, mark_of(self.tokenizer))
        found = [mark for mark in marks if mark not in others and text.startswith(mark)]
        return behind[: len(behind) - len(text) + len(max(found, key=len))] if found else ""


@dataclass(frozen=True)
class _Rendered:
    """What a template wrote: its own text, and numbers of what was said."""

    parts: list[str | int]
    said: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, chat: Chat, messages: Sequence[dict[str, Any]], **how: Any) -> _Rendered:
        """Raises ValueError: the template cannot write such messages."""
        said: list[str] = []
        held = [{**message, "content": _held(message["content"], said)} for message in messages]
        try:
            text = chat.tokenizer.apply_chat_template(held, chat_template=chat.template.jinja, tokenize=False, **how)
        except (TemplateError, TypeError) as error:  # jinja lets through what the operators of Python raise
            raise ValueError(f"the chat template cannot write this: {error}") from error
        parts = _HELD.split(text)
        return cls([int(part) if place % 2 else part for place, part in enumerate(parts)], said)


def _held(content: str | Sequence[dict[str, Any]], said: list[str]) -> list[dict[str, Any]]:
    """The parts of a message with numbers in place of words, which go to `said`."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts = []
    for part in content:
        if part["type"] != "text":
            parts.append({"type": part["type"]})
            continue
        text = str(part["text"])
        words = text.strip() or text
        begin = text.index(words)  # white space around the words stays the template's to trim
        said.append(words)
        shown = f"{text[:begin]}\ue100{len(said) - 1}\ue101{text[begin + len(words) :]}"
        parts.append({"type": "text", "text": shown})
    return parts


def placed(questions: Sequence[str], images: int) -> list[list[str]]:
    """Each question as its texts between images.

    Every `<image>` is a place if there are as many of them as images. Otherwise those are that stand on lines of their
    own, as LLaVA's data has them, and the rest is text that speaks of images.

    Raises:
        ValueError: neither number is that of the images.
    """
    whole = [question.split(IMAGE) for question in questions]
    if sum(map(len, whole)) - len(whole) == images:
        return whole
    alone = [_split_at_lines(question) for question in questions]
    places = sum(map(len, alone)) - len(alone)
    if places != images:
        raise ValueError("images and their places differ in number")
    return alone


def _split_at_lines(question: str) -> list[str]:
    texts, end = [""], 0
    for line in _ALONE.finditer(question):
        texts[-1] += question[end : line.start()]
        first, *rest = line[0].split(IMAGE)
        texts[-1] += first
        texts += rest
        end = line.end()
    texts[-1] += question[end:]
    return texts


def _image_first(texts: list[str]) -> list[str]:
    """The texts around the only image of a question, which moves to the front; others as they are."""
    if len(texts) != 2 or not texts[0]:
        return texts
    return ["", "\n" + "".join(texts).strip()]


def mark_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that stands for one vision token of an image, and for a whole image in a chat template."""
    own = getattr(tokenizer, "context_image_token", None) or getattr(tokenizer, "image_token", None)
    return str(own or IMAGE)


def image_text(tokenizer: PreTrainedTokenizerBase, tokens: int) -> str:
    """What stands for an image of so many `tokens` in a text; InternVL's tokenizer has tokens around them too."""
    text = mark_of(tokenizer) * tokens
    if getattr(tokenizer, "context_image_token", None) is None:
        return text
    return f"{tokenizer.start_image_token}{text}{tokenizer.end_image_token}"
