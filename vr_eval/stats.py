"""Means, paired differences and their 95 % intervals for evaluation scores.

The clustered standard error and the paired design follow Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640).
Ours: the small-sample correction, the bound for scores without any spread, and how tasks are combined.

- Questions about one image are not independent. They form a *cluster*; the standard error is built from the
  clusters' summed residuals, times G / (G - 1) for G clusters. With one question per cluster this is the ordinary
  standard error, and `paired_difference` is the ordinary paired t-test.
- Intervals are t intervals with G - 1 degrees of freedom. They describe which questions were asked. They say nothing
  about another training seed: `seed_spread` does.
- Scores that are all the same (all right, all wrong, two methods that never differ) have a standard error of zero, and
  an interval of no width would claim certainty. There we use the rule of three: with 95 % confidence at most
  r = 1 - 0.05 ** (1 / G) of the clusters (about 3 / G) would have come out otherwise, and the interval is the worst
  that those could do to the mean. Its `method` says "rule of three".
- An estimate that cannot be made (nothing answered, one cluster only) is NaN with a reason in `note`, never an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

CONFIDENCE = 0.95
FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and 95 % interval; NaN where one cannot be given, and `note` says why.

    `p` tests the value against zero, so it is of use for differences only. `n` counts questions, `clusters` images.
    """

    value: float = math.nan
    se: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    dof: float = math.nan
    n: int = 0
    clusters: int = 0
    method: str = "none"  # "t" | "rule of three" | "none"
    note: str = ""

    @property
    def known(self) -> bool:
        return not math.isnan(self.value)

    @property
    def bounded(self) -> bool:
        """True if there is an interval."""
        return not math.isnan(self.low)

    @property
    def excludes_zero(self) -> bool:
        return self.bounded and (self.low > 0 or self.high < 0)

    def scaled(self, factor: float) -> Estimate:
        """The same estimate in other units, such as points (factor 100); `factor` is positive."""
        return replace(
            self, value=self.value * factor, se=self.se * factor, low=self.low * factor, high=self.high * factor
        )


def clustered_mean(scores: ArrayLike, clusters: Sequence[Any] | NDArray[Any], low: float = 0.0) -> Estimate:
    """Mean of `scores` (n,) with its cluster-robust standard error and interval; NaN scores (not answered) are ignored.

    `clusters` (n,) names the cluster of each score. Scores lie in [low, 1] (`low` is -1 for differences); the bound
    only matters where all scores are the same. Raises ValueError if the lengths differ.
    """
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    labels = np.asarray(clusters).reshape(-1)
    if values.shape != labels.shape:
        raise ValueError(f"{values.size} scores but {labels.size} clusters")
    answered = ~np.isnan(values)
    values, labels = values[answered], labels[answered]
    if values.size == 0:
        return Estimate(note="no question was answered")
    codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    groups = int(codes.max()) + 1
    mean = float(values.mean())
    if groups < 2:
        return Estimate(value=mean, n=values.size, clusters=groups, note="one cluster only, no interval")
    if float(np.ptp(values)) == 0.0:
        return _without_spread(float(values[0]), low, values.size, groups)
    residuals = np.bincount(codes, weights=values - mean)
    se = math.sqrt(groups / (groups - 1) * float(residuals @ residuals)) / values.size
    if se < 1e-12:
        # Every cluster has the same mean: the clusters agree although their questions do not.
        return replace(_without_spread(mean, low, values.size, groups), note="no spread between clusters")
    return _t_estimate(mean, se, groups - 1, n=values.size, clusters=groups)


def stratified_mean(
    scores: ArrayLike, clusters: Sequence[Any] | NDArray[Any], strata: Sequence[Any] | NDArray[Any], low: float = 0.0
) -> Estimate:
    """Mean over strata (a benchmark's categories) of the mean in each, as if each were a task; all arguments (n,).

    A stratum without an answer makes the whole unknown; see `combine`.
    """
    values, labels, groups = np.asarray(scores, dtype=np.float64), np.asarray(clusters), np.asarray(strata)
    return combine([clustered_mean(values[groups == g], labels[groups == g], low) for g in np.unique(groups)])


def paired_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    clusters: Sequence[Any] | NDArray[Any],
    strata: Sequence[Any] | NDArray[Any] | None = None,
) -> Estimate:
    """Mean of a - b on the questions that both answered; all (n,), row i being one question, scores in [0, 1].

    With `strata` it is the mean over strata of the mean in each.
    """
    a = np.asarray(scores_a, dtype=np.float64).reshape(-1)
    b = np.asarray(scores_b, dtype=np.float64).reshape(-1)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} scores against {b.size}")
    if strata is not None:
        return stratified_mean(a - b, clusters, strata, low=-1.0)
    estimate = clustered_mean(a - b, clusters, low=-1.0)
    return estimate if estimate.n else replace(estimate, note="no question that both answered")


def combine(estimates: Sequence[Estimate]) -> Estimate:
    """Unweighted mean of estimates that are independent of each other (tasks of a suite, suites of an average).

    SE = sqrt(sum of se squared) / k, with Welch-Satterthwaite degrees of freedom; combining in stages (tasks, then
    suites) gives the same as combining at once with the product of the weights. An unknown part makes the whole
    unknown: an average over other suites than its neighbour's would be no comparison.
    """
    parts = list(estimates)
    if len(parts) == 1:
        return parts[0]
    n, clusters = sum(part.n for part in parts), sum(part.clusters for part in parts)
    if not parts or not all(part.known for part in parts):
        return Estimate(n=n, clusters=clusters, note="a part is missing")
    value = sum(part.value for part in parts) / len(parts)
    if not all(part.bounded for part in parts):
        return Estimate(value=value, n=n, clusters=clusters, note="a part has no interval")
    variance = sum(part.se**2 for part in parts)
    dof = variance**2 / sum(part.se**4 / part.dof for part in parts)
    return _t_estimate(value, math.sqrt(variance) / len(parts), dof, n=n, clusters=clusters)


def over_seeds(scores: ArrayLike) -> FloatArray:
    """Mean over the first axis of (seeds, n) scores, per question; NaN only where no seed answered."""
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    answered = (~np.isnan(table)).sum(axis=0)
    total = np.nansum(table, axis=0)
    mean = np.full(table.shape[1], np.nan)
    np.divide(total, answered, out=mean, where=answered > 0)
    return mean


def seed_spread(values: Sequence[float]) -> float:
    """Standard deviation (n - 1) of one value per seed, such as its average; NaN for fewer than two seeds."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of several p-values (NaN stays NaN and counts for nothing)."""
    known = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted, running = [math.nan] * len(p_values), 0.0
    for rank, (p, index) in enumerate(known):
        running = max(running, min(1.0, (len(known) - rank) * p))
        adjusted[index] = running
    return adjusted


def _t_estimate(value: float, se: float, dof: float, *, n: int, clusters: int) -> Estimate:
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, dof)) * se
    p = float(2 * student_t.sf(abs(value) / se, dof))
    return Estimate(value, se, value - half, value + half, p, dof, n, clusters, "t")


def _without_spread(value: float, low: float, n: int, groups: int) -> Estimate:
    """The rule-of-three interval: a share r of the clusters, not seen here, might score `low` or 1 instead of `value`.

    `p` is the level at which the interval of a difference just touches zero. `se` is the one whose t interval
    reaches as far as the longer side, so that a combination stays on the safe side.
    """
    r = 1 - (1 - CONFIDENCE) ** (1 / groups)
    bottom, top = value - r * (value - low), value + r * (1 - value)
    se = max(value - bottom, top - value) / float(student_t.ppf((1 + CONFIDENCE) / 2, groups - 1))
    p = (1 + abs(value)) ** -groups
    return Estimate(value, se, bottom, top, p, groups - 1, n, groups, "rule of three")
