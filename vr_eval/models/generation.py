"""How a model is made to generate by explicit rules: never by the `generation_config.json` of its checkpoint.

Of that file only the tokens count that end an answer: published checkpoints have several (Qwen2's `<|im_end|>` and
`<|endoftext|>`, Llama 3's `<|eot_id|>` and `<|end_of_text|>`), and each of tokenizer, configuration and chat template
may know another one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vr_eval.config.decoding import Rules
from vr_eval.models.chat import Chat
from vr_eval.models.text import special_tokens


def only_tokens(config: GenerationConfig | None) -> GenerationConfig:
    """What is kept of a checkpoint's generation config: its special tokens. The rest is greedy search, spelled out."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    tokens = {name: getattr(config, name) for name in names if config is not None}
    return GenerationConfig(do_sample=False, num_beams=1, **tokens)


def end_tokens(model: PreTrainedModel, processor: Any) -> tuple[int, ...]:
    """Every token that ends an answer: the tokenizer's, those that the checkpoint declares, and its chat template's.

    A declared id that is no special token of the tokenizer is a default of its configuration's class.
    """
    tokenizer = processor.tokenizer
    declared = [*_ids(model.generation_config.eos_token_id), *_ids(model.config.get_text_config().eos_token_id)]
    special = set(tokenizer.convert_tokens_to_ids(list(special_tokens(tokenizer))))
    known = [token for token in declared if token in special]
    found = [tokenizer.eos_token_id, *known, _end_of_turn(processor, special)]
    return tuple(dict.fromkeys(token for token in found if token is not None))


def generation_config(rules: Rules, ends: Sequence[int], pad_token_id: int) -> GenerationConfig:
    """The rules as transformers takes them, complete. Drawing is not its part: `drawn_by` does that."""
    beams: dict[str, Any] = {}
    if rules.num_beams > 1:
        beams = {"early_stopping": False, "length_penalty": rules.length_penalty}
    return GenerationConfig(
        max_new_tokens=rules.max_new_tokens,
        min_new_tokens=rules.min_new_tokens or None,
        do_sample=False,
        num_beams=rules.num_beams,
        num_return_sequences=1,
        repetition_penalty=rules.repetition_penalty,
        no_repeat_ngram_size=rules.no_repeat_ngram_size,
        use_cache=True,
        eos_token_id=list(ends),
        pad_token_id=pad_token_id,
        **beams,
    )


def drawn_by(rules: Rules, seeds: Sequence[int]) -> LogitsProcessorList:
    """What makes greedy search draw, every row of a batch by its own seed; nothing where the rules draw nothing.

    transformers draws a whole batch from one generator, so an answer would depend on the questions beside it.
    """
    processors = LogitsProcessorList()
    if not rules.samples:
        return processors
    processors.append(TemperatureLogitsWarper(rules.temperature))
    if rules.top_k:
        processors.append(TopKLogitsWarper(rules.top_k))
    if rules.top_p < 1:
        processors.append(TopPLogitsWarper(rules.top_p))
    processors.append(Drawn(seeds))
    return processors


def seed_of(*parts: object) -> int:
    """A seed that hangs on nothing but these."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()[:8], "big")


class Drawn(LogitsProcessor):
    """Leaves of every row of logits one token, drawn by their probabilities: one number per row and step decides."""

    def __init__(self, seeds: Iterable[int]) -> None:
        self._generators = [random.Random(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``scores``: ``(B, V)``, a row per seed."""
        mass = scores.double().softmax(-1).cumsum(-1)
        drawn = torch.tensor([[generator.random()] for generator in self._generators], dtype=mass.dtype)
        # The first token whose mass is above the number: one without probability adds nothing, so it is never that.
        chosen = torch.searchsorted(mass, drawn.to(mass.device) * mass[:, -1:], right=True)
        left = torch.full_like(scores, float("-inf"))
        return left.scatter(-1, chosen.clamp(max=scores.shape[-1] - 1), 0.0)


def _ids(value: int | Sequence[int] | None) -> Sequence[int]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else value


def _end_of_turn(processor: Any, special: set[int]) -> int | None:
    """The special token that the chat template writes behind an answer; None where it writes none."""
    try:
        pieces = Chat.of(processor).dialogue([("a question", "an answer")], "", [])
    except ValueError:  # a template for prompts alone
        return None
    end = [piece.text for piece in pieces if piece.learned][-1].strip()
    token = processor.tokenizer.convert_tokens_to_ids(end)
    return token if token in special else None
