"""Multinomial logistic regression of many taps at once, by batched L-BFGS along a path of strengths.

Each problem minimises ``mean cross-entropy + l/2 |W|^2`` over standardised features, biases free: scikit-learn's
`LogisticRegression` with ``C = 1 / (n l)``. The taps advance together; each has its own curvature pairs and its own
step length, and leaves when it is solved.

Notable (ours), each of which saves passes over the data: strengths are solved from the strongest to the weakest, each
from where the two before it point; features are rotated into the eigenvectors of their covariance, where the Hessian
is close to diagonal, and L-BFGS starts from its exact diagonal instead of from the identity. A pass is cheap as each
tap's scores stay in the processor's cache, and as classes are filled up to whole vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vr_eval.probes.ridge import CHUNK, Linear, Scale, Stack

MEMORY = 10
"""Curvature pairs that are kept."""
MAX_ITERATIONS = 1000
"""Steps at one strength; what is not solved by then is taken as it is."""
TOLERANCE = 1e-4
"""A problem is solved when no entry of its gradient is larger (scikit-learn's criterion and default)."""
_READY = 2**27
"""Feature values that are kept standardised in memory; more are made again in every pass."""
_ARMIJO = 1e-4
_SMALLEST_STEP = 1e-4
_TOGETHER = 2**17
"""Weights at one strength that advance together on a CPU: so many, and their curvature pairs, stay in its cache."""
_VECTOR = 16
"""Matrix products over a multiple of this many columns are up to twice as fast."""
_NEVER = -1e4
"""Bias of a class that fills up: its chance is 0, and so is its gradient."""


def fit_logistic(
    stack: Stack, labels: NDArray[np.int64], classes: int, strengths: Tensor, tolerance: float = TOLERANCE
) -> Linear:
    """Logistic regression of T taps with strengths ``(T, S)``; float32 on the device of `stack`."""
    count = len(stack.arrays)
    step = max(1, _TOGETHER // (stack.width * classes)) if stack.device.type == "cpu" else count
    starts = range(0, count, step)
    some = [Stack(stack.arrays[start : start + step], stack.rows, stack.device) for start in starts]
    found = [
        _fit(part, labels, classes, strengths[start : start + step], tolerance)
        for part, start in zip(some, starts, strict=True)
    ]
    return found[0] if len(found) == 1 else Linear.joined(found)


def _fit(stack: Stack, labels: NDArray[np.int64], classes: int, strengths: Tensor, tolerance: float) -> Linear:
    scale = Scale.of(stack)
    vectors = _principal(stack, scale)
    data = _Data(stack, scale, vectors, torch.from_numpy(labels).to(stack.device), classes)
    strengths = strengths.float().to(stack.device)
    before = weight = data.start()
    found: dict[int, Tensor] = {}
    for place in strengths.mean(0).argsort(descending=True).tolist():
        ahead = weight if len(found) < 2 else 2 * weight - before
        before, weight = weight, _solve(data, strengths[:, place], ahead, tolerance)
        found[place] = weight[..., :classes]
    solved = torch.stack([found[place] for place in range(strengths.shape[1])], dim=1)  # (T, S, d + 1, C)
    return Linear(scale, vectors[:, None] @ solved[:, :, :-1], solved[:, :, -1])


def _principal(stack: Stack, scale: Scale) -> Tensor:
    """Eigenvectors ``(T, d, d)`` of the standardised features' covariance, float32."""
    gram = torch.zeros(len(stack.arrays), stack.width, stack.width, dtype=torch.float64, device=stack.device)
    for _, x in stack.chunks():
        x = scale.apply(x)
        gram += x.mT @ x
    return torch.linalg.eigh(gram / len(stack.rows)).eigenvectors.float()


@dataclass
class _Data:
    """The data side of all problems. Features are standardised; weights are in the rotated space, the biases last.

    It is the weights that are rotated back: that takes d*d*C operations a pass, where rotating features takes n*d*d.
    """

    stack: Stack
    scale: Scale
    vectors: Tensor
    labels: Tensor
    classes: int

    def __post_init__(self) -> None:
        size = len(self.stack.arrays) * len(self.stack.rows) * self.stack.width
        self._ready = list(self._made()) if size <= _READY else None
        self.only(list(range(len(self.stack.arrays))))

    def start(self) -> Tensor:
        """Weights ``(T, d + 1, C')`` at which all classes are equally likely; C' is C filled up."""
        filled = -(-self.classes // _VECTOR) * _VECTOR
        weight = self.vectors.new_zeros(len(self.vectors), self.stack.width + 1, filled)
        weight[:, -1, self.classes :] = _NEVER
        return weight

    def only(self, taps: list[int]) -> None:
        """Go on with some of the taps."""
        self._taps, self._turn = taps, self.vectors[taps]

    def loss(self, weight: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Mean cross-entropies ``(R,)`` and their gradients, both at `weight` ``(R, d + 1, C')``.

        Args:
            rows: which of the taps in use.
        """
        loss, gradient = weight.new_zeros(len(weight)), torch.zeros_like(weight)
        turn = self._turn[rows] if len(rows) < len(self._taps) else self._turn
        for row, part, x, chances in self._chances(weight, turn, rows):
            target = self.labels[part, None]
            right = chances.gather(1, target)
            loss[row] -= right.clamp(min=1e-37).log().sum()
            chances.scatter_(1, target, right - 1)
            gradient[row, :-1].addmm_(x.T, chances)
            gradient[row, -1] += chances.sum(0)
        gradient[:, :-1] = turn.mT @ gradient[:, :-1]
        return loss / len(self.labels), gradient / len(self.labels)

    def curvature(self, weight: Tensor) -> Tensor:
        """The diagonal of the Hessian of the mean cross-entropy in the rotated space, ``(A, d + 1, C')``."""
        found = torch.zeros_like(weight)
        for row, _, x, chances in self._chances(weight, self._turn, list(range(len(weight)))):
            spread = chances * (1 - chances)
            found[row, :-1].addmm_((x @ self._turn[row]).square_().T, spread)
            found[row, -1] += spread.sum(0)
        return found / len(self.labels)

    def _chances(self, weight: Tensor, turn: Tensor, rows: list[int]) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
        """Place in `weight`, images, their features ``(m, d)`` and chances ``(m, C')``: one tap at a time."""
        turned = turn @ weight[:, :-1]
        for part, x in self._made() if self._ready is None else self._ready:
            for place, row in enumerate(rows):
                own = x[self._taps[row]]
                yield place, part, own, torch.addmm(weight[place, -1], own, turned[place]).softmax(-1)

    def _made(self) -> Iterator[tuple[slice, Tensor]]:
        for part, x in self.stack.chunks(CHUNK):
            yield part, self.scale.apply(x).float()


def _solve(data: _Data, strengths: Tensor, start: Tensor, tolerance: float) -> Tensor:
    """Weights ``(T, d + 1, C')`` of one strength per tap ``(T,)``, the last row the biases."""
    taps = torch.arange(len(strengths), device=strengths.device)
    data.only(taps.tolist())
    state = _State(data, strengths, start, tolerance)
    result = start.clone()
    for _ in range(MAX_ITERATIONS):
        if not bool(state.open.all()):
            result[taps] = state.weight
            taps = taps[state.open]
            data.only(taps.tolist())
            state.keep(state.open)
        if not len(taps):
            break
        state.step()
    result[taps] = state.weight
    return result


class _State:
    """Where every open problem stands. All tensors begin ``(A,)``."""

    def __init__(self, data: _Data, strengths: Tensor, weight: Tensor, tolerance: float) -> None:
        self.data, self.weight, self.tolerance = data, weight, tolerance
        self.penalty = strengths[:, None, None].expand(-1, weight.shape[1], 1).clone()
        self.penalty[:, -1] = 0
        # Of where it begins; every step's newest pair rescales it.
        self.inverse = 1 / (data.curvature(weight) + self.penalty).clamp(min=1e-8)
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.loss, self.gradient = self.evaluate(weight, torch.arange(len(weight), device=weight.device))
        self.open = self.gradient.abs().amax((-1, -2)) > tolerance

    def evaluate(self, weight: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Losses ``(R,)`` and gradients of the problems `rows` at `weight` ``(R, d + 1, C')``, penalty included."""
        loss, gradient = self.data.loss(weight, rows.tolist())
        shrunk = self.penalty[rows] * weight
        return loss + 0.5 * _dot(shrunk, weight), gradient + shrunk

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the problems."""
        for name in ("weight", "penalty", "inverse", "loss", "gradient", "open"):
            setattr(self, name, getattr(self, name)[rows])
        self.pairs = [(s[rows], y[rows], rho[rows]) for s, y, rho in self.pairs]

    def direction(self) -> Tensor:
        """Two-loop recursion, each problem with its own pairs; a pair that does not count has rho 0."""
        towards = self.gradient.clone()
        shares = []
        for s, y, rho in reversed(self.pairs):
            share = rho * _dot(s, towards)
            shares.append(share)
            towards -= share[:, None, None] * y
        towards *= self.inverse
        if self.pairs:
            # The true curvature along the newest pair over the assumed one.
            s, y, rho = self.pairs[-1]
            scale = 1 / (rho * _dot(y, self.inverse * y)).clamp(min=1e-12)
            towards *= torch.where(rho > 0, scale, torch.ones_like(scale))[:, None, None]
        for (s, y, rho), share in zip(self.pairs, reversed(shares), strict=True):
            towards += (share - rho * _dot(y, towards))[:, None, None] * s
        return -towards

    def step(self) -> None:
        """One iteration: a direction for every problem, and the longest step of 1, 1/2, ... that lowers its loss."""
        direction = self.direction()
        slope = _dot(direction, self.gradient)
        direction = torch.where((slope < 0)[:, None, None], direction, -self.inverse * self.gradient)
        slope = _dot(direction, self.gradient)
        weight, loss, gradient = self.weight.clone(), self.loss.clone(), self.gradient.clone()
        rows, length = torch.arange(len(weight), device=weight.device), 1.0
        while len(rows) and length > _SMALLEST_STEP:
            tried = self.weight[rows] + length * direction[rows]
            new_loss, new_gradient = self.evaluate(tried, rows)
            # Float32 cannot tell losses apart that differ by less.
            bound = self.loss[rows] + _ARMIJO * length * slope[rows] + 1e-6 * self.loss[rows].abs()
            lower = new_loss <= bound
            taken = rows[lower]
            weight[taken], loss[taken], gradient[taken] = tried[lower], new_loss[lower], new_gradient[lower]
            rows, length = rows[~lower], length / 2
        self._move(weight, loss, gradient)
        self.open[rows] = False  # no step along a downhill direction lowers the loss: rounding is all that is left

    def _move(self, weight: Tensor, loss: Tensor, gradient: Tensor) -> None:
        """Go to `weight`, and remember what the way there says about the curvature."""
        s, y = weight - self.weight, gradient - self.gradient
        curve = _dot(s, y)
        rho = torch.where(curve > 1e-10 * _dot(y, y), 1 / curve.clamp(min=1e-30), torch.zeros_like(curve))
        self.pairs = [*self.pairs[-MEMORY + 1 :], (s, y, rho)]
        self.weight, self.loss, self.gradient = weight, loss, gradient
        self.open = gradient.abs().amax((-1, -2)) > self.tolerance


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-1, -2))
