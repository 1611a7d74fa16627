"""Bootstrap intervals over images, the same resamples for every tap and cell, so that differences are paired.

Percentile intervals (Efron 1979). Where every image gives the same, a resample shows no spread: the rule of three of
vr_eval/stats.py takes its place. Tests of a difference are those of vr_eval/stats.py too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vr_eval.stats import CONFIDENCE, Estimate, clustered_mean, paired_difference

_CELLS = 2**24


class Bootstrap:
    """Resamples of `images` images."""

    def __init__(self, images: int, resamples: int, seed: int) -> None:
        self.images, self.resamples, self.seed = images, resamples, seed

    def mean(self, values: ArrayLike) -> Estimate:
        """The mean of ``(images,)`` values of 0 or 1 with its interval."""
        table = np.asarray(values, dtype=np.float64)
        return self._estimate(table, clustered_mean(table, np.arange(self.images)))

    def difference(self, after: ArrayLike, before: ArrayLike) -> Estimate:
        """Mean of `after` minus `before`, paired by image; `p` is that of the paired t-test."""
        a, b = (np.asarray(values, dtype=np.float64) for values in (after, before))
        return self._estimate(a - b, paired_difference(a, b, np.arange(self.images)))

    def _estimate(self, values: NDArray[np.float64], exact: Estimate) -> Estimate:
        if values.shape != (self.images,):
            raise ValueError(f"{values.shape} values for {self.images} images")
        if exact.method != "t":  # no spread, or one image only
            return exact
        means = np.concatenate([part @ values for part in self._counts()]) / self.images
        low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Estimate(
            exact.value,
            float(means.std()),
            float(low),
            float(high),
            exact.p,
            exact.dof,
            exact.n,
            self.images,
            "bootstrap",
        )

    def _counts(self) -> list[NDArray[np.float32]]:
        """How often every image is drawn in every resample, ``(resamples, images)`` in parts; always the same."""
        if not hasattr(self, "_drawn"):
            rng = np.random.default_rng([self.seed, 3])
            step = max(1, _CELLS // self.images)
            sizes = [min(step, self.resamples - start) for start in range(0, self.resamples, step)]
            even = np.full(self.images, 1 / self.images)
            self._drawn = [rng.multinomial(self.images, even, size).astype(np.float32) for size in sizes]
        return self._drawn
