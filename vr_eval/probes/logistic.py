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
TOLERANCE = 1e-5
"""A problem is solved when no entry of its gradient is larger.

scikit-learn's criterion and a tenth of its default, which at weak strengths ends whole points of accuracy away from the
minimum.
"""
_READY = 2**27
"""Feature values that are kept standardised in memory; more are made again in every pass."""
_ARMIJO = 1e-4
_SMALLEST_STEP = 1e-4
_TOGETHER = 2**18
"""Weights at one strength that advance together on a CPU: so many, and their curvature pairs, stay in its cache."""
_VECTOR = 16
"""Matrix products over a multiple of this many columns are up to twice as fast."""
_NEVER = -1e4
"""Bias of a class that fills up: its chance is 0, and so is its gradient."""


def fit_logistic(stack: Stack, labels: NDArray[np.int64], classes: int, strengths: Tensor) -> Linear:
    """Logistic regression of T taps with strengths ``(T, S)``; float32 on the device of `stack`."""
    count = len(stack.arrays)
    step = max(1, _TOGETHER // (stack.width * classes)) if stack.device.type == "cpu" else count
    starts = range(0, count, step)
    some = [Stack(stack.arrays[start : start + step], stack.rows, stack.device) for start in starts]
    found = [
        _fit(part, labels, classes, strengths[start : start + step]) for part, start in zip(some, starts, strict=True)
    ]
    return found[0] if len(found) == 1 else Linear.joined(found)


def _fit(stack: Stack, labels: NDArray[np.int64], classes: int, strengths: Tensor) -> Linear:
    scale = Scale.of(stack)
    vectors = _principal(stack, scale)
    data = _Data(stack, scale, vectors, torch.from_numpy(labels).to(stack.device), classes)
    strengths = strengths.float().to(stack.device)
    before = weight = data.start()
    found: dict[int, Tensor] = {}
    for place in strengths.mean(0).argsort(descending=True).tolist():
        ahead = weight if len(found) < 2 else 2 * weight - before
        before, weight = weight, _solve(data, strengths[:, place], ahead)
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
        filled = -(-self.classes // _VECTOR) * _VECTOR
        self.real = (torch.arange(filled, device=self.vectors.device) < self.classes).float()
        """1 for a class, 0 for one that fills up."""

    def start(self) -> Tensor:
        """Weights ``(T, d + 1, C')`` at which all classes are equally likely; C' is C filled up."""
        weight = self.vectors.new_zeros(len(self.vectors), self.stack.width + 1, len(self.real))
        weight[:, -1, self.classes :] = _NEVER
        return weight

    def only(self, taps: list[int]) -> None:
        """Go on with some of the taps."""
        self._taps, self._turn = taps, self.vectors[taps]

    def loss(self, weight: Tensor, penalty: Tensor, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Objectives ``(R,)``, their gradients, and these gradients' largest entries, where features are not rotated.

        Args:
            weight: Where, ``(R, d + 1, C')``.
            penalty: ``(R, 1, 1)``.
            rows: which of the taps in use.
        """
        loss, gradient = weight.new_zeros(len(weight)), torch.zeros_like(weight)
        turn = self._turn[rows] if len(rows) < len(self._taps) else self._turn
        turned = turn @ weight[:, :-1]
        for row, part, x, chances in self._chances(turned, weight[:, -1], rows):
            target = self.labels[part, None]
            right = chances.gather(1, target)
            loss[row] -= right.clamp(min=1e-37).log().sum()
            chances.scatter_(1, target, right - 1)
            gradient[row, :-1].addmm_(x.T, chances)
            gradient[row, -1] += chances.sum(0)
        gradient /= len(self.labels)
        shrunk = penalty * turned
        gradient[:, :-1] += shrunk
        steepest = gradient.abs().amax((-1, -2))
        gradient[:, :-1] = turn.mT @ gradient[:, :-1]
        return loss / len(self.labels) + 0.5 * _dot(shrunk, turned), gradient, steepest

    def curvature(self, weight: Tensor) -> Tensor:
        """The diagonal of the Hessian of the mean cross-entropy in the rotated space, ``(A, d + 1, C')``."""
        found = torch.zeros_like(weight)
        turned = self._turn @ weight[:, :-1]
        for row, _, x, chances in self._chances(turned, weight[:, -1], list(range(len(weight)))):
            spread = chances * (1 - chances)
            found[row, :-1].addmm_((x @ self._turn[row]).square_().T, spread)
            found[row, -1] += spread.sum(0)
        return found / len(self.labels)

    def _chances(self, weight: Tensor, bias: Tensor, rows: list[int]) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
        """Place in `weight`, images, their features ``(m, d)`` and chances ``(m, C')``: one tap at a time."""
        for part, x in self._made() if self._ready is None else self._ready:
            for place, row in enumerate(rows):
                own = x[self._taps[row]]
                yield place, part, own, torch.addmm(bias[place], own, weight[place]).softmax(-1)

    def _made(self) -> Iterator[tuple[slice, Tensor]]:
        for part, x in self.stack.chunks(CHUNK):
            yield part, self.scale.apply(x).float()


def _solve(data: _Data, strengths: Tensor, start: Tensor) -> Tensor:
    """Weights ``(T, d + 1, C')`` of one strength per tap ``(T,)``, the last row the biases."""
    taps = torch.arange(len(strengths), device=strengths.device)
    data.only(taps.tolist())
    state = _State(data, strengths, start)
    result = start.clone()
    for _ in range(MAX_ITERATIONS):
        if not bool(state.open.all()):
            result[taps] = state.at.weight
            taps = taps[state.open]
            data.only(taps.tolist())
            state.keep(state.open)
        if not len(taps):
            break
        state.step()
    result[taps] = state.at.weight
    return result


@dataclass
class _Point:
    """Weights ``(A, d + 1, C')``, loss and gradient there, and the gradient's largest entry for features as given."""

    weight: Tensor
    loss: Tensor
    gradient: Tensor
    steepest: Tensor

    def of(self, rows: Tensor) -> _Point:
        return _Point(self.weight[rows], self.loss[rows], self.gradient[rows], self.steepest[rows])

    def put(self, rows: Tensor, other: _Point) -> None:
        """Let the problems `rows` stand where `other` does."""
        self.weight[rows], self.loss[rows] = other.weight, other.loss
        self.gradient[rows], self.steepest[rows] = other.gradient, other.steepest


class _State:
    """Where every open problem stands. All tensors begin ``(A,)``."""

    def __init__(self, data: _Data, strengths: Tensor, weight: Tensor) -> None:
        self.data, self.penalty = data, strengths[:, None, None]
        curvature = data.curvature(weight)
        curvature[:, :-1] += self.penalty
        self.inverse = data.real / curvature.clamp(min=1e-8)
        self.memory = _Memory(weight)
        self.at = _Point(weight, *data.loss(weight, self.penalty, list(range(len(weight)))))
        self.open = self.at.steepest > TOLERANCE

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the problems."""
        for name in ("penalty", "inverse", "open"):
            setattr(self, name, getattr(self, name)[rows])
        self.at = self.at.of(rows)
        self.memory.keep(rows)

    def step(self) -> None:
        """One iteration: a direction for every problem, and the longest step of 1, 1/2, ... that lowers its loss."""
        old = self.at
        first = self._precondition(old.gradient)
        direction = -self.memory.descent(old.gradient, first)
        slope = _dot(direction, old.gradient)
        up = slope >= 0
        direction[up], slope[up] = -first[up], -_dot(first, old.gradient)[up]
        # Float32 cannot tell losses apart that differ by less.
        least = old.loss + 1e-6 * old.loss.abs()
        rows, length = torch.arange(len(slope), device=slope.device), 1.0
        new = self._evaluate(old.weight + direction, rows)
        while len(rows := rows[new.loss[rows] > least[rows] + _ARMIJO * length * slope[rows]]):
            length /= 2
            if length < _SMALLEST_STEP:
                new.put(rows, old.of(rows))
                break
            new.put(rows, self._evaluate(old.weight[rows] + length * direction[rows], rows))
        change = new.gradient - old.gradient
        self.memory.add(new.weight - old.weight, change, self._precondition(change))
        self.at, self.open = new, new.steepest > TOLERANCE
        self.open[rows] = False  # no step along a downhill direction lowers the loss: rounding is all that is left

    def _precondition(self, gradient: Tensor) -> Tensor:
        """The inverse Hessian that L-BFGS begins with: its diagonal's, among weights that sum to 0 over the classes.

        The sum changes no chance: a step along it would have to be taken back by the penalty, slowly if that is weak.
        """
        return self._centred(self._centred(gradient) * self.inverse)

    def _centred(self, x: Tensor) -> Tensor:
        return (x - x.sum(-1, keepdim=True) / self.data.classes) * self.data.real

    def _evaluate(self, weight: Tensor, rows: Tensor) -> _Point:
        return _Point(weight, *self.data.loss(weight, self.penalty[rows], rows.tolist()))


class _Memory:
    """The newest curvature pairs of A problems, and what they say the inverse Hessian is.

    Compact form of L-BFGS (Byrd, Nocedal, Schnabel 1994, theorem 2.2), begun with an inverse Hessian H of the caller's:
    two products with all pairs instead of four with each. A place without a pair holds zeros, and in `upper` the
    identity's row, and so changes nothing.
    """

    def __init__(self, like: Tensor) -> None:
        count, size = len(like), like[0].numel()
        self.pairs = like.new_zeros(count, 2 * MEMORY, size)
        """Steps s and H times changes of the gradient, Hy: s and Hy of place 0, of place 1, ..."""
        self.upper = torch.eye(MEMORY, dtype=torch.float64, device=like.device).repeat(count, 1, 1)
        """s_i y_j of every i that is not newer than j, else 0."""
        self.curves = self.upper.new_zeros(count, MEMORY)
        """s_i y_i."""
        self.inner = torch.zeros_like(self.upper)
        """y_i H y_j."""
        self.scale = self.upper.new_ones(count)
        """Of H: the newest true curvature over the one that H assumes."""
        self.order: list[int] = []
        """Places, the oldest first."""

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the problems."""
        for name in ("pairs", "upper", "curves", "inner", "scale"):
            setattr(self, name, getattr(self, name)[rows])

    def add(self, s: Tensor, y: Tensor, hy: Tensor) -> None:
        """Remember a step, what it changed the gradient by, and H times that; only positive curvatures count."""
        place = self.order.pop(0) if len(self.order) == MEMORY else len(self.order)
        self.order.append(place)
        used = len(self.order)
        length = _dot(y, hy)
        counts = _dot(s, y) > 1e-10 * length
        for row, vector in ((2 * place, s), (2 * place + 1, hy)):
            self.pairs[:, row] = (vector * counts[:, None, None]).flatten(1)
        dots = self._products(y)
        self.upper[:, place] = 0
        self.upper[:, :used, place] = dots[..., 0]
        self.curves[:, place] = dots[:, place, 0]
        self.inner[:, :used, place] = self.inner[:, place, :used] = dots[..., 1] * counts[:, None]
        self.scale = torch.where(counts, self.curves[:, place] / length, self.scale)
        self.upper[:, place, place] += ~counts

    def descent(self, gradient: Tensor, first: Tensor) -> Tensor:
        """The inverse Hessian times `gradient`, where `first` is H times it; all ``(A, d + 1, C')``."""
        if not self.order:
            return first.clone()
        order, scale = self.order, self.scale[:, None, None]
        dots = self._products(gradient)[:, order, :, None]
        upper, inner = self.upper[:, order][:, :, order], self.inner[:, order][:, :, order]
        along = torch.linalg.solve_triangular(upper, dots[:, :, 0], upper=True)
        right = (inner @ along - dots[:, :, 1]) * scale + self.curves[:, order, None] * along
        shares = torch.empty_like(dots)
        shares[:, order, 0] = torch.linalg.solve_triangular(upper.mT, right, upper=False)
        shares[:, order, 1] = -scale * along
        change = shares.flatten(1).to(first.dtype)[:, None] @ self.pairs[:, : 2 * len(order)]
        return first * scale.to(first.dtype) + change.view_as(first)

    def _products(self, vector: Tensor) -> Tensor:
        """``(A, places, 2)`` float64: every s and every Hy times `vector`."""
        # A row vector times the transpose: a matrix times a column vector is many times slower.
        dots = vector.flatten(1)[:, None] @ self.pairs[:, : 2 * len(self.order)].mT
        return dots.double().view(len(vector), -1, 2)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-1, -2))
