"""How a conversation is written as one text, and which parts of that text are answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from vr_eval.models.lvlm import IGNORE
from vr_eval.models.processor import image_text
from vr_eval.training.conversation import IMAGE, Encoded

Turns = Sequence[tuple[str, str]]
Segments = list[tuple[str, bool]]
"""Pieces of a text in their order, and whether each is supervised."""

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""Vicuna v1.1's, which LLaVA trains with (official code)."""


def chatml(turns: Turns, system: str, end: str) -> Segments:
    """Qwen's format, with a system turn only where the conversation has one: as the prompts of an evaluation."""
    segments = [(f"<|im_start|>system\n{system}<|im_end|>\n", False)] if system else []
    for question, answer in turns:
        segments.append((f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", False))
        # The end of the turn is supervised, the line feed after it is the template's.
        segments += [(f"{answer}<|im_end|>", True), ("\n", False)]
    return segments


def vicuna(turns: Turns, system: str, end: str) -> Segments:
    """Vicuna v1.1's format (LLaVA-1.5 and LLaVA-NeXT with Vicuna)."""
    segments: Segments = [(f"{system or VICUNA_SYSTEM} ", False)]
    for question, answer in turns:
        segments += [(f"USER: {question} ASSISTANT:", False), (f" {answer}{end}", True)]
    return segments


def plain(turns: Turns, system: str, end: str) -> Segments:
    """Images and then their captions, without what was asked (LLaVA's stage 1, official code)."""
    segments: Segments = []
    for question, answer in turns:
        segments += [(IMAGE * question.count(IMAGE), False), (f"{answer}\n", True)]
    return segments


WRITERS: dict[str, Callable[[Turns, str, str], Segments]] = {"chatml": chatml, "vicuna": vicuna, "plain": plain}
"""By their names in a recipe; each takes turns, the system's words (may be empty) and the tokenizer's end token."""


@dataclass(frozen=True)
class Template:
    """A format and the tokenizer that reads it."""

    name: str
    tokenizer: PreTrainedTokenizerBase

    @property
    def unknown(self) -> str | None:
        """A mark of the format that the tokenizer does not know as one token, if there is one."""
        marks = ("<|im_start|>", "<|im_end|>") if self.name == "chatml" else ()
        vocabulary = self.tokenizer.get_vocab()
        return next((mark for mark in marks if mark not in vocabulary), None)

    def encode(self, turns: Turns, system: str = "", image_tokens: Sequence[int] = ()) -> Encoded:
        """A conversation as token ids with labels; `image_tokens`: how many tokens stand for each `<image>` of it.

        The text is tokenised as a whole, so that a word at a border is split as it is in a prompt.

        Raises:
            ValueError: the number of images is not that of their places.
        """
        segments = WRITERS[self.name](turns, system, self.tokenizer.eos_token or "")
        counts = iter(image_tokens)
        places = sum(text.count(IMAGE) for text, _ in segments)
        if places != len(image_tokens):
            raise ValueError(f"{places} places for {len(image_tokens)} images")
        text, supervised = "", []
        for piece, answer in segments:
            first, *rest = piece.split(IMAGE)
            start = len(text)
            text += first + "".join(image_text(self.tokenizer, next(counts)) + part for part in rest)
            if answer:
                supervised.append((start, len(text)))
        # Llama's sequences begin with a token of their own, which not every template writes.
        begun = bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)
        found = self.tokenizer(text, add_special_tokens=not begun, return_offsets_mapping=True)
        ids, labels = list(found["input_ids"]), [IGNORE] * len(found["input_ids"])
        spans = iter(supervised)
        span = next(spans, None)
        for place, (begin, finish) in enumerate(found["offset_mapping"]):
            while span is not None and begin >= span[1]:
                span = next(spans, None)
            if span is not None and finish > begin >= span[0]:
                labels[place] = ids[place]
        return Encoded(ids, labels)
