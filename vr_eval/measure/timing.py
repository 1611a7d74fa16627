"""Wall time of calls that are to be compared: warmed up, in turns, by their median."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

from vr_eval.measure.question import example
from vr_eval.models.lvlm import LVLM
from vr_eval.models.tiles import Size

WARM_UP = 3
REPEATS = 15


@dataclass(frozen=True)
class Times:
    """Measured times of one call, in milliseconds, in the order of the rounds."""

    rounds_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The median, which a busy machine disturbs less than the mean."""
        return median(self.rounds_ms)

    def ratio_to(self, other: Times) -> float:
        """The median over rounds of own time / the other's: both met the same load of the machine in a round."""
        return median(a / b for a, b in zip(self.rounds_ms, other.rounds_ms, strict=True))


def finish(device: torch.device) -> None:
    """Wait until a device that works on its own has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def times(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    repeats: int = REPEATS,
    warm_up: int = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Times of `calls`, which take turns, so that a change of the machine's speed meets all of them.

    The first `warm_up` rounds do not count. `clock` gives seconds; that of the process's own time, on one thread of a
    CPU, knows nothing of what else runs there.
    """
    measured: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm_up + repeats):
        # Every other round backwards: none is always the one that follows a certain other.
        for name, call in list(calls.items())[:: 1 if number % 2 else -1]:
            finish(device)
            started = clock()
            call()
            finish(device)
            if number >= warm_up:
                measured[name].append((clock() - started) * 1000)
    return {name: Times(tuple(values)) for name, values in measured.items()}


def prefill_call(model: LVLM, text_tokens: int, batch: int = 1, size: Size | None = None) -> Callable[[], object]:
    """From the pixels of one image a sample to the logits of the first answer token (its time is the TTFT).

    `size`: of the image, as in `example`.
    """
    given = example(model, text_tokens, batch, size=size)
    return lambda: model(**given)


@torch.no_grad()
def decode_call(model: LVLM, text_tokens: int, batch: int = 1) -> Callable[[], object]:
    """One decode step after a prefill; every call goes one token further, as an answer does."""
    given = example(model, text_tokens, batch)
    cache = model(**given).past_key_values
    mask, token = given["attention_mask"], given["input_ids"][:, -1:]

    def step() -> object:
        nonlocal mask
        mask = torch.cat([mask, torch.ones_like(token)], dim=1)
        return model(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True)

    return step
