"""How answers are generated: the same explicit rules for every cell of a grid, whatever a checkpoint's files say.

What a grid gives wins over what a task asks for; what neither says is greedy search without penalties.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vr_eval.catalog.fields import checked, described
from vr_eval.config.document import Node, Problems
from vr_eval.config.keys import read_keys
from vr_eval.errors import InputError, Problem

NEW_TOKENS = 128
"""Longest answer where neither grid nor task limits it (ours)."""

_ASKED = "the task's, else "


@dataclass(frozen=True)
class Decoding:
    """The key ``decoding`` of a grid file; ``None``: what the task asks for, else the default of ``Rules``."""

    temperature: float | None = described(
        None,
        "0 takes the most probable token; above 0 tokens are drawn, seeded by question and cell",
        minimum=0,
        maximum=100,
        example="decoding: {temperature: 0.7, top_p: 0.9}",
        default_note=f"{_ASKED}0",
    )
    top_p: float | None = described(
        None,
        "drawn among the most probable tokens that together have this probability",
        above=0,
        maximum=1,
        default_note=f"{_ASKED}1: all",
    )
    top_k: int | None = described(
        None, "drawn among so many tokens", minimum=0, maximum=1_000_000, default_note=f"{_ASKED}0: all"
    )
    num_beams: int | None = described(
        None, "beams of a beam search, 1 for none", minimum=1, maximum=1000, default_note=f"{_ASKED}1"
    )
    repetition_penalty: float | None = described(
        None,
        "divides the logits of tokens that question or answer have already",
        above=0,
        maximum=100,
        default_note=f"{_ASKED}1: none",
    )
    no_repeat_ngram_size: int | None = described(
        None,
        "so many tokens in a row never come again",
        minimum=0,
        maximum=10_000,
        default_note=f"{_ASKED}0: off",
    )
    length_penalty: float | None = described(
        None, "exponent of the length in a beam's score", minimum=-100, maximum=100, default_note=f"{_ASKED}1"
    )
    min_new_tokens: int | None = described(
        None, "shortest answer in tokens", minimum=0, maximum=1_000_000, default_note=f"{_ASKED}0"
    )
    max_new_tokens: int | None = described(
        None, "longest answer in tokens", minimum=1, maximum=1_000_000, default_note=f"{_ASKED}{NEW_TOKENS}"
    )

    @property
    def stated(self) -> dict[str, Any]:
        """What is given, by key."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def __str__(self) -> str:
        default = "what the task asks for, else greedy and no penalties"
        given = ", ".join(f"{name} {value:g}" for name, value in self.stated.items())
        return f"{given}; for the rest {default}" if given else default

    def rules(self, task: str, kwargs: Mapping[str, Any]) -> Rules:
        """The rules for questions of `task`, whose `generation_kwargs` are these; keys about other things count not.

        Raises:
            InputError: The task asks for what cannot be, or for what does not go with what the grid says.
        """
        asked = _asked(task, kwargs)
        until = kwargs.get("until") or ()
        until = (until,) if isinstance(until, str) else until
        rules = Rules(**{**asked, **self.stated}, until=tuple(text for text in until if text))
        for name, message in _clashes(dataclasses.asdict(rules)):
            hint = "What `decoding` in the grid file says wins over it."
            raise InputError(Problem(f"the task {task}: {message}", key=f"decoding.{name}", hint=hint))
        return rules


@dataclass(frozen=True)
class Rules:
    """How an answer is generated, complete; the values here hold where nobody says otherwise.

    Attributes:
        until: The answer ends before the first of these texts.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0
    min_new_tokens: int = 0
    max_new_tokens: int = NEW_TOKENS
    until: tuple[str, ...] = ()

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature > 0

    def cut(self, text: str) -> str:
        """`text` up to the first stop text."""
        for stop in self.until:
            text = text.split(stop)[0]
        return text


def read_decoding(node: Node, problems: Problems, place: str = "decoding", others: Sequence[str] = ()) -> Decoding:
    """The key ``decoding`` of a grid file; what does not fit is reported and left out (`read_keys`)."""
    decoding = Decoding(**read_keys(Decoding, node, place, problems, others))
    for name, message in (*_clashes(decoding.stated), *_idle(decoding.stated)):
        problems.add(node.entries[name], f"{place}.{name}" if place else name, message)
    return decoding


def given_decoding(values: Mapping[str, Any], source: str, others: Sequence[str]) -> Decoding:
    """Decoding from arguments of `source`, which takes `others` too.

    Raises:
        InputError: With every argument that is unknown or does not fit.
    """
    problems = Problems()
    node = Node({name: Node(value, source) for name, value in values.items()}, source)
    decoding = read_decoding(node, problems, "", others)
    problems.raise_any()
    return decoding


def _asked(task: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a task asks for, in our terms: nothing is drawn unless `do_sample` and a temperature say so."""
    names = [field.name for field in dataclasses.fields(Decoding)]
    given = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
    draws = kwargs.get("do_sample")
    if draws is True:
        given.setdefault("temperature", 1.0)
    if draws is False or not given.get("temperature"):
        # Tasks state these beside greedy search too, sometimes with values that mean nothing.
        given |= {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
    values = {}
    for name, value in given.items():
        try:
            values[name] = checked(Decoding, name, value)
        except ValueError as error:
            message, key = f"the task {task} asks for what cannot be", f"generation_kwargs.{name}"
            raise InputError(Problem(message, key=key, given=value, allowed=str(error))) from None
    return values


def _clashes(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What of these values does not go together: a key, and why."""
    found = []
    if given.get("temperature") and given.get("num_beams", 1) > 1:
        found.append(("num_beams", "a beam search draws nothing: num_beams above 1 needs temperature 0"))
    if given.get("min_new_tokens", 0) > given.get("max_new_tokens", given.get("min_new_tokens", 0)):
        least, most = given["min_new_tokens"], given["max_new_tokens"]
        found.append(("min_new_tokens", f"min_new_tokens {least} is more than max_new_tokens {most}"))
    if given.get("no_repeat_ngram_size") == 1:
        found.append(("no_repeat_ngram_size", "1 would forbid every token of the question, the end of a turn too"))
    return found


def _idle(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What of these values changes nothing beside the others."""
    drawn = [(name, "nothing is drawn at temperature 0") for name in ("top_p", "top_k")]
    found = drawn if given.get("temperature") == 0 else []
    found += [("length_penalty", "it scores beams, and num_beams is 1")] if given.get("num_beams") == 1 else []
    return [(name, message) for name, message in found if given.get(name, getattr(Rules, name)) != getattr(Rules, name)]
