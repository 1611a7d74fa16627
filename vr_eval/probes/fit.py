"""From features to what is reported: probes with a chosen strength, the shuffled control, one entry per test image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vr_eval.probes.data.base import Labels
from vr_eval.probes.logistic import fit_logistic
from vr_eval.probes.ridge import Fit, Stack, fit_ridge
from vr_eval.probes.store import Features

PROBES: Mapping[str, Fit] = {"ridge": fit_ridge, "logistic": fit_logistic}
STACK_VALUES = 2**31
"""Feature values of the taps that are fitted together; more taps are taken in turns."""


@dataclass(frozen=True)
class Fitted:
    """A probe of one tap.

    Attributes:
        correct: ``(n,)`` bool, one entry per test image.
        control: The same of a probe that was fitted to shuffled labels.
        strength: Chosen on the held-out part.
        heldout: Accuracy there by strength, 0 to 1.
    """

    correct: NDArray[np.bool_]
    control: NDArray[np.bool_]
    strength: float
    heldout: tuple[float, ...]


@dataclass(frozen=True)
class Task:
    """What is fitted: labels of the training and test images, and how."""

    train: Labels
    test: Labels
    classes: int
    probe: str
    strengths: Sequence[float]
    heldout: float
    seed: int


def fit_taps(
    train: Sequence[Features], test: Sequence[Features], task: Task, device: torch.device | None = None
) -> list[Fitted]:
    """One probe per tap; taps of the same width are fitted together.

    Args:
        train: ``(n, width)`` of every tap.
        test: Likewise.
    """
    found: dict[int, Fitted] = {}
    for width in sorted({array.shape[1] for array in train}):
        places = [place for place, array in enumerate(train) if array.shape[1] == width]
        step = max(1, STACK_VALUES // (len(task.train) * width))
        for start in range(0, len(places), step):
            some = places[start : start + step]
            fitted = _fit([train[i] for i in some], [test[i] for i in some], task, device or torch.device("cpu"))
            found |= dict(zip(some, fitted, strict=True))
    return [found[place] for place in range(len(train))]


def heldout_rows(labels: Labels, share: float, seed: int) -> NDArray[np.bool_]:
    """Which training images choose the strength: of every class the same share, at least one of two or more."""
    order = np.random.default_rng([seed, 1]).permutation(len(labels))
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        count = min(len(members) - 1, max(1, round(share * len(members))))
        chosen[members[:count]] = True
    return chosen


def _fit(train: list[Features], test: list[Features], task: Task, device: torch.device) -> list[Fitted]:
    solve = PROBES[task.probe]
    held = heldout_rows(task.train, task.heldout, task.seed)
    part, kept = np.flatnonzero(~held), np.flatnonzero(held)
    grid = torch.tensor(task.strengths, dtype=torch.float64, device=device).expand(len(train), -1)
    trial = solve(Stack(train, part, device), task.train[part], task.classes, grid)
    accuracy = (trial.predict(Stack(train, kept, device)) == task.train[kept]).mean(-1)  # (T, S)
    chosen = _strongest_best(accuracy, task.strengths)
    strengths = grid.gather(1, torch.from_numpy(chosen)[:, None].to(device))
    everything = Stack(train, np.arange(len(task.train)), device)
    tested = Stack(test, np.arange(len(task.test)), device)

    def right(labels: Labels, strengths: Tensor) -> NDArray[np.bool_]:
        predicted = solve(everything, labels, task.classes, strengths).predict(tested)
        return predicted[:, 0] == task.test

    correct = right(task.train, strengths)
    control = right(np.random.default_rng([task.seed, 2]).permutation(task.train), strengths)
    return [
        Fitted(correct[i], control[i], float(strengths[i, 0]), tuple(accuracy[i].tolist())) for i in range(len(train))
    ]


def _strongest_best(accuracy: NDArray[np.float64], strengths: Sequence[float]) -> NDArray[np.int64]:
    """The strength with the best accuracy; of equals the strongest."""
    order = np.argsort(strengths)[::-1]
    best: NDArray[np.int64] = order[accuracy[:, order].argmax(1)]
    return best
