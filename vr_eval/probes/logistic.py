"""Multinomial logistic regression of many taps at once, by batched L-BFGS along a path of strengths.

Each problem minimises ``mean cross-entropy + l/2 |W|^2`` over standardised features, biases free: scikit-learn's
`LogisticRegression` with ``C = 1 / (n l)``. The taps advance together, as one batched matrix product per chunk of rows;
each has its own curvature pairs and its own step length, and leaves when it is solved.

Notable (ours), each of which saves iterations: strengths are solved from the strongest to the weakest, each from the
solution of the one before; features are rotated into the eigenvectors of their covariance, where the Hessian is close
to diagonal, and L-BFGS starts from that diagonal instead of from the identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vr_eval.probes.ridge import CHUNK, Linear, Scale, Stack

MEMORY = 8
"""Curvature pairs that are kept."""
MAX_ITERATIONS = 200
"""Steps at one strength; what is not solved by then is very weakly regularised, and taken as it is."""
TOLERANCE = 1e-4
"""A problem is solved when no entry of its gradient is larger (scikit-learn's criterion and default)."""
_READY = 2**27
"""Feature values that are kept standardised in memory; more are made again in every pass."""
_ARMIJO = 1e-4
_SMALLEST_STEP = 1e-4


def fit_logistic(
    stack: Stack, labels: NDArray[np.int64], classes: int, strengths: Tensor, tolerance: float = TOLERANCE
) -> Linear:
    """Logistic regression of T taps with strengths ``(T, S)``; float32 on the device of `stack`."""
    scale = Scale.of(stack)
    values, vectors = _principal(stack, scale)
    data = _Data(stack, scale, vectors, torch.from_numpy(labels).to(stack.device), classes)
    strengths = strengths.float().to(stack.device)
    weight = vectors.new_zeros(len(strengths), data.inputs, classes)
    found = {}
    for place in strengths.mean(0).argsort(descending=True).tolist():
        weight = found[place] = _solve(data, values, strengths[:, place], weight, tolerance)
    solved = torch.stack([found[place] for place in range(strengths.shape[1])], dim=1)  # (T, S, d + 1, C)
    return Linear(scale, vectors[:, None] @ solved[:, :, :-1], solved[:, :, -1])


def _principal(stack: Stack, scale: Scale) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(T, d)`` and eigenvectors ``(T, d, d)`` of the standardised features' covariance, float32."""
    gram = torch.zeros(len(stack.arrays), stack.width, stack.width, dtype=torch.float64, device=stack.device)
    for _, x in stack.chunks():
        x = scale.apply(x)
        gram += x.mT @ x
    values, vectors = torch.linalg.eigh(gram / len(stack.rows))
    return values.clamp(min=0).float(), vectors.float()


@dataclass
class _Data:
    """The data side of all problems. Features are standardised and end with a 1; weights are in the rotated space.

    It is the weights that are rotated back: that takes d*d*C operations a pass, where rotating features takes n*d*d.
    """

    stack: Stack
    scale: Scale
    vectors: Tensor
    labels: Tensor
    classes: int

    def __post_init__(self) -> None:
        size = len(self.stack.arrays) * len(self.stack.rows) * self.stack.width
        self._all = list(self._made()) if size <= _READY else None
        self.only(None)

    @property
    def inputs(self) -> int:
        return self.stack.width + 1

    def only(self, taps: Tensor | None) -> None:
        """Go on with some of the taps; None: with all of them."""
        self._taps = taps
        self._turn = self.vectors if taps is None else self.vectors[taps]
        self._ready = self._all
        if self._all is not None and taps is not None:
            self._ready = [(part, x[taps]) for part, x in self._all]

    def loss(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropies ``(A,)`` of the taps in use and their gradients, both at `weight` ``(A, d + 1, C)``."""
        loss, gradient = weight.new_zeros(len(weight)), torch.zeros_like(weight)
        plain = torch.cat([self._turn @ weight[:, :-1], weight[:, -1:]], dim=1)
        for part, x in self._chunks():
            chances = (x @ plain).softmax(-1)  # (A, m, C)
            target = self.labels[None, part, None].expand(len(weight), -1, 1)
            right = chances.gather(2, target)
            loss -= right.clamp(min=1e-37).log().sum((1, 2))
            chances.scatter_(2, target, right - 1)
            gradient.baddbmm_(x.mT, chances)
        gradient = torch.cat([self._turn.mT @ gradient[:, :-1], gradient[:, -1:]], dim=1)
        return loss / len(self.labels), gradient / len(self.labels)

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        if self._ready is not None:
            yield from self._ready
            return
        for part, x in self._made():
            yield part, x if self._taps is None else x[self._taps]

    def _made(self) -> Iterator[tuple[slice, Tensor]]:
        for part, x in self.stack.chunks(CHUNK):
            yield part, torch.nn.functional.pad(self.scale.apply(x).float(), (0, 1), value=1.0)


def _solve(data: _Data, values: Tensor, strengths: Tensor, start: Tensor, tolerance: float) -> Tensor:
    """Weights ``(T, d + 1, C)`` of one strength per tap ``(T,)``, the last row the biases."""
    data.only(None)
    state = _State(data, values, strengths, start, tolerance)
    result = start.clone()
    taps = torch.arange(len(strengths), device=strengths.device)
    for _ in range(MAX_ITERATIONS):
        if not bool(state.open.all()):
            result[taps] = state.weight
            taps = taps[state.open]
            data.only(taps)
            state.keep(state.open)
        if not len(taps):
            break
        state.step()
    result[taps] = state.weight
    return result


class _State:
    """Where every open problem stands. All tensors begin ``(A,)``."""

    def __init__(self, data: _Data, values: Tensor, strengths: Tensor, weight: Tensor, tolerance: float) -> None:
        self.data, self.weight, self.tolerance = data, weight, tolerance
        self.penalty = strengths[:, None, None].expand(-1, data.inputs, 1).clone()
        self.penalty[:, -1] = 0
        # p (1 - p) of evenly spread scores: a start, which every step's newest pair rescales.
        spread = torch.cat([values, values.new_ones(len(values), 1)], dim=1)[..., None] / data.classes
        self.inverse = 1 / (spread + self.penalty).clamp(min=1e-8)
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.loss, self.gradient = self.evaluate(weight)
        self.open = self.gradient.abs().amax((-1, -2)) > tolerance

    def evaluate(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Losses ``(A,)`` and gradients, penalty included."""
        loss, gradient = self.data.loss(weight)
        shrunk = self.penalty * weight
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
        length = torch.ones_like(slope)
        weight, loss, gradient = self.weight, self.loss, self.gradient
        pending = torch.ones_like(self.open)
        stuck = torch.zeros_like(self.open)
        while bool(pending.any()):
            tried = self.weight + length[:, None, None] * direction
            new_loss, new_gradient = self.evaluate(tried)
            # Float32 cannot tell losses apart that differ by less.
            lower = new_loss <= self.loss + _ARMIJO * length * slope + 1e-6 * self.loss.abs()
            taken = pending & (lower | (length <= _SMALLEST_STEP))
            stuck |= taken & ~lower
            weight = torch.where((taken & lower)[:, None, None], tried, weight)
            gradient = torch.where((taken & lower)[:, None, None], new_gradient, gradient)
            loss = torch.where(taken & lower, new_loss, loss)
            pending = pending & ~taken
            length = torch.where(pending, length / 2, length)
        self._move(weight, loss, gradient)
        self.open &= ~stuck  # no step along a downhill direction lowers the loss: rounding is all that is left

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
