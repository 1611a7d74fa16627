"""Exact ridge regression to one-hot targets, for several features and all strengths from one decomposition each.

For centred features X ``(n, d)`` and one-hot targets Y ``(n, C)``, strength l gives
``W = V (E + l)^-1 V^T X^T Y / n`` with ``X^T X / n = V E V^T``: the minimum of ``|Y - X W|^2 / n + l |W|^2``. The
predicted class is the largest output (a linear classifier; the same as scikit-learn's `RidgeClassifier` with
``alpha = n * l``). Sums run in float64 over chunks of rows, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 4096
"""Rows that are in memory at a time."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Stack:
    """Features of T taps of the same width d: ``(n, d)`` arrays on disk or in memory, and the rows in use."""

    arrays: Sequence[NDArray[np.float32]]
    rows: Rows
    device: torch.device

    @property
    def width(self) -> int:
        return int(self.arrays[0].shape[1])

    def chunks(self, size: int = CHUNK) -> Iterator[tuple[slice, Tensor]]:
        """Positions in `rows`, and their features ``(T, m, d)`` float32."""
        for start in range(0, len(self.rows), size):
            part = slice(start, min(start + size, len(self.rows)))
            wanted = self.rows[part]
            yield part, torch.stack([torch.from_numpy(array[wanted]) for array in self.arrays]).to(self.device)


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of features, ``(T, 1, d)`` float64; a constant channel has deviation 1."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, stack: Stack) -> Scale:
        """In two passes, so that a mean much larger than the deviation costs no digits."""
        count = len(stack.rows)
        mean = torch.stack([x.double().sum(1, keepdim=True) for _, x in stack.chunks()]).sum(0) / count
        squares = [(x.double() - mean).square().sum(1, keepdim=True) for _, x in stack.chunks()]
        deviation = (torch.stack(squares).sum(0) / count).sqrt()
        tiny = deviation <= 1e-6 * mean.abs().clamp(min=1e-6)
        return cls(mean, deviation.masked_fill(tiny, 1.0))

    def apply(self, x: Tensor) -> Tensor:
        """Standardised features ``(T, m, d)`` float64."""
        return (x.double() - self.mean) / self.deviation


@dataclass(frozen=True)
class Linear:
    """Linear classifiers of T taps: weights ``(T, S, d, C)`` on standardised features, biases ``(T, S, C)``."""

    scale: Scale
    weight: Tensor
    bias: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Linear]) -> Linear:
        """Classifiers of all taps of `parts`, in their order."""
        scale = Scale(*(torch.cat([getattr(part.scale, name) for part in parts]) for name in ("mean", "deviation")))
        return cls(scale, torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))

    def predict(self, stack: Stack) -> NDArray[np.int64]:
        """Classes ``(T, S, n)``."""
        strengths = self.weight.shape[1]
        flat = self.weight.transpose(1, 2).flatten(2)  # (T, d, S*C)
        found = []
        for _, x in stack.chunks():
            scores = (self.scale.apply(x).to(flat.dtype) @ flat).unflatten(2, (strengths, -1))
            found.append((scores + self.bias[:, None]).argmax(-1).transpose(1, 2).cpu().numpy())
        return np.concatenate(found, axis=2)


Fit = Callable[[Stack, NDArray[np.int64], int, Tensor], Linear]
"""``(features, labels (n,), classes C, strengths (T, S)) -> classifiers``; labels are in the order of the rows."""


def fit_ridge(stack: Stack, labels: NDArray[np.int64], classes: int, strengths: Tensor) -> Linear:
    """Ridge classifiers of T taps with S strengths each; see the module."""
    scale = Scale.of(stack)
    count = len(stack.rows)
    gram = torch.zeros(len(stack.arrays), stack.width, stack.width, dtype=torch.float64, device=stack.device)
    cross = gram.new_zeros(len(stack.arrays), stack.width, classes)
    targets = torch.from_numpy(labels).to(stack.device)
    for part, x in stack.chunks():
        x = scale.apply(x)
        gram += x.mT @ x
        cross += x.mT @ torch.nn.functional.one_hot(targets[part], classes).double()
    values, vectors = torch.linalg.eigh(gram / count)
    inner = vectors.mT @ (cross / count)  # (T, d, C)
    shrunk = inner[:, None] / (values.clamp(min=0)[:, None] + strengths.double()[..., None])[..., None]
    share = torch.bincount(targets, minlength=classes).double() / count
    return Linear(scale, vectors[:, None] @ shrunk, share.expand(*strengths.shape, classes))
