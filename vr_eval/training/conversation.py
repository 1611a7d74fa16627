"""From questions on one image to a training sequence: ChatML, answers supervised, everything else not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from vr_eval.models.lvlm import IGNORE

IMAGE = "<image>"


@dataclass(frozen=True)
class Encoded:
    """One sample: token ids, and the same length of labels (-100 where not supervised)."""

    input_ids: list[int]
    labels: list[int]


def user_turn(question: str, *, image: bool) -> str:
    """A user's turn and the assistant's header, as the chat template of Qwen writes them (no system turn)."""
    shown = f"{IMAGE}\n" if image else ""
    return f"<|im_start|>user\n{shown}{question}<|im_end|>\n<|im_start|>assistant\n"


def encode(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[str, str]], image_tokens: int, max_length: int = 4096
) -> Encoded:
    """Question and answer pairs about one image as one sequence, the image in front of the first question.

    Raises:
        ValueError: no turn, or a sequence longer than `max_length` tokens.
    """
    if not turns:
        raise ValueError("a conversation needs at least one question and answer")
    ids: list[int] = []
    labels: list[int] = []
    for number, (question, answer) in enumerate(turns):
        asked = user_turn(question, image=number == 0).replace(IMAGE, IMAGE * image_tokens)
        prompt = tokenizer(asked, add_special_tokens=False)["input_ids"]
        # The end of the turn is supervised, the line feed after it is the template's.
        reply = tokenizer(f"{answer}<|im_end|>", add_special_tokens=False)["input_ids"]
        feed = tokenizer("\n", add_special_tokens=False)["input_ids"]
        ids += prompt + reply + feed
        labels += [IGNORE] * len(prompt) + reply + [IGNORE] * len(feed)
    if len(ids) > max_length:
        raise ValueError(f"a sequence of {len(ids)} tokens is longer than the limit of {max_length}")
    return Encoded(ids, labels)
