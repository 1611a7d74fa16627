"""Logistic probes of many taps together against scikit-learn's, one by one, on the features of shipped models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from vr_eval import cli
from vr_eval.probes import session
from vr_eval.probes.logistic import TOLERANCE, fit_logistic
from vr_eval.probes.ridge import Scale, Stack

TAPS, WIDTH = 25, 128


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    """Training and test features of 25 taps, and what is asked of them, as `vr-eval probe` reads them."""
    seen: list[tuple[Any, Any, Any]] = []

    def watched(train: Any, test: Any, task: Any, device: Any) -> Any:
        wide = [place for place, array in enumerate(train) if array.shape[1] == WIDTH]
        chosen = [wide[place] for place in np.linspace(0, len(wide) - 1, TAPS).astype(int)]
        seen.append(([np.array(train[i]) for i in chosen], [np.array(test[i]) for i in chosen], task))
        return fit_taps(train, test, task, device)

    fit_taps = session.fit_taps
    monkeypatch.setattr(session, "fit_taps", watched)
    monkeypatch.setenv("VR_EVAL_HOME", str(tmp_path))
    keys = ("grids=[refusion]", "data=[glyphs]", "probes=[ridge]", "attention_images=0", "resamples=100")
    settings = [part for key in keys for part in ("--set", key)]
    assert cli.main(["probe", "probe_tiny_imagenet", *settings, "--workers", "1", "--out", str(tmp_path / "run")]) == 0
    return seen[0]


@pytest.mark.slow
def test_25_taps_and_5_strengths_are_fitted_ten_times_as_fast_as_by_scikit_learn(asked: tuple[Any, Any, Any]) -> None:
    """Both stop at the same gradient. scikit-learn gets one thread: more make fits of this size several times slower.

    Where both end within the tolerance they need not predict alike at the weakest strengths; the mean over taps does.
    """
    train, test, task = asked
    cpu = torch.device("cpu")
    known, new = (Stack(arrays, np.arange(len(arrays[0])), cpu) for arrays in (train, test))
    strengths = torch.tensor([task.strengths]).expand(TAPS, -1)
    fit_logistic(Stack(train[:1], known.rows, cpu), task.train, task.classes, strengths[:1])  # warm up

    started = time.perf_counter()
    fitted = fit_logistic(known, task.train, task.classes, strengths)
    ours = time.perf_counter() - started
    right = (fitted.predict(new) == task.test).mean(-1)

    x, t = (Scale.of(known).apply(next(stack.chunks())[1]).float().numpy() for stack in (known, new))
    theirs, scores = 0.0, np.zeros_like(right)
    with threadpool_limits(1):
        for tap, place in np.ndindex(scores.shape):
            penalty = len(task.train) * task.strengths[place]
            model = LogisticRegression(C=1 / penalty, tol=TOLERANCE, max_iter=10_000)
            started = time.perf_counter()
            model.fit(x[tap], task.train)
            theirs += time.perf_counter() - started
            scores[tap, place] = model.score(t[tap], task.test)
    told = f"scikit-learn {theirs:.1f} s, ours {ours:.2f} s: {theirs / ours:.1f} times as fast"
    print(told)
    assert np.abs(right.mean(0) - scores.mean(0)).max() < 0.003
    assert theirs > 10 * ours, told
