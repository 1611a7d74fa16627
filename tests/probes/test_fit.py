"""Probes on cases with known answers, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from vr_eval.probes import logistic, ridge
from vr_eval.probes.fit import Task, fit_taps, heldout_rows
from vr_eval.probes.intervals import Bootstrap
from vr_eval.probes.logistic import fit_logistic
from vr_eval.probes.ridge import Stack, fit_ridge

CLASSES, WIDTH = 10, 24
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def features(labels: np.ndarray, signal: float, seed: int) -> np.ndarray:
    """Class means of norm `signal` under noise whose channels differ 30-fold, with an offset."""
    means = signal * np.random.default_rng(0).normal(size=(CLASSES, WIDTH))
    noise = np.random.default_rng(seed).normal(size=(len(labels), WIDTH))
    return ((means[labels] + noise) * np.logspace(0, -1.5, WIDTH) + 5).astype(np.float32)


def task(probe: str, train: int = 600, test: int = 1000) -> Task:
    labels = np.arange(train) % CLASSES, np.arange(test) % CLASSES
    return Task(*labels, CLASSES, probe, STRENGTHS, heldout=0.25, seed=0)


@pytest.mark.parametrize("probe", ["ridge", "logistic"])
def test_known_answers(probe: str) -> None:
    """A tower whose features hold the label, a projector that destroys half of it, and one that destroys all."""
    asked = task(probe)
    one_hot = [np.eye(CLASSES, WIDTH, dtype=np.float32)[labels] for labels in (asked.train, asked.test)]
    half = [array.copy() for array in one_hot]
    for array in half:
        array[:, : CLASSES // 2] = 0  # the first five classes can no longer be told apart
    noise = [
        np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32) for seed, n in ((3, 600), (4, 1000))
    ]
    whole, kept, lost = fit_taps([one_hot[0], half[0], noise[0]], [one_hot[1], half[1], noise[1]], asked)
    assert whole.correct.all()
    drop = whole.correct.mean() - kept.correct.mean()
    assert drop == pytest.approx(0.4)  # one of those five is guessed right
    interval = Bootstrap(1000, 2000, 0).mean(lost.correct)
    assert interval.low <= 1 / CLASSES <= interval.high


def test_shuffled_labels_give_chance_and_so_the_selectivity_is_the_accuracy_above_it() -> None:
    asked = task("ridge", test=2000)
    (fitted,) = fit_taps([features(asked.train, 1, 1)], [features(asked.test, 1, 2)], asked)
    assert fitted.correct.mean() > 0.9
    assert fitted.control.mean() == pytest.approx(1 / CLASSES, abs=0.05)


@pytest.mark.parametrize("probe", ["ridge", "logistic"])
def test_taps_fitted_together_are_those_fitted_alone(probe: str) -> None:
    asked = task(probe)
    train = [features(asked.train, signal, 1) for signal in (0.1, 0.3, 0.6)]
    test = [features(asked.test, signal, 2) for signal in (0.1, 0.3, 0.6)]
    together = fit_taps([*train, train[0][:, :7]], [*test, test[0][:, :7]], asked)
    for place in range(3):
        (alone,) = fit_taps([train[place]], [test[place]], asked)
        assert (alone.correct != together[place].correct).mean() < 0.003
        assert alone.strength == together[place].strength


def test_the_strength_is_chosen_without_the_test_images() -> None:
    asked = task("ridge")
    train, test = features(asked.train, 0.3, 1), features(asked.test, 0.3, 2)
    (one,), (other,) = fit_taps([train], [test], asked), fit_taps([train], [test[::-1].copy()], asked)
    assert one.strength == other.strength
    assert one.strength == STRENGTHS[int(np.argmax(one.heldout))]


def test_the_held_out_part_has_every_class_and_leaves_every_class() -> None:
    labels = np.arange(60) % 20
    held = heldout_rows(labels, 0.25, 0)
    assert set(labels[held]) == set(labels[~held]) == set(range(20))
    assert held.sum() == 20


@pytest.mark.parametrize("strength", STRENGTHS)
def test_ridge_is_the_exact_minimum(strength: float) -> None:
    asked = task("ridge")
    x, t = features(asked.train, 0.3, 1), features(asked.test, 0.3, 2)
    cpu = torch.device("cpu")
    stack, test = Stack([x], np.arange(600), cpu), Stack([t], np.arange(1000), cpu)
    ours = fit_ridge(stack, asked.train, CLASSES, torch.tensor([[strength]])).predict(test)[0, 0]
    mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    theirs = RidgeClassifier(alpha=600 * strength).fit((x - mean) / deviation, asked.train)
    assert (theirs.predict((t - mean) / deviation) == ours).all()


WEAK = (1e-5, *STRENGTHS)


def test_logistic_regression_agrees_with_scikit_learn_within_03_points_at_every_strength() -> None:
    """Both converged: the objectives, in float64, are the same to four digits too."""
    asked = task("logistic")
    x, t = features(asked.train, 0.3, 1), features(asked.test, 0.3, 2)
    cpu = torch.device("cpu")
    stack, test = Stack([x], np.arange(600), cpu), Stack([t], np.arange(1000), cpu)
    fitted = fit_logistic(stack, asked.train, CLASSES, torch.tensor([WEAK]))
    ours = fitted.predict(test)[0]
    mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    x, t = (x - mean) / deviation, (t - mean) / deviation
    for place, strength in enumerate(WEAK):
        theirs = LogisticRegression(C=1 / (600 * strength), max_iter=20_000, tol=1e-6).fit(x, asked.train)
        assert abs(theirs.score(t, asked.test) - (ours[place] == asked.test).mean()) <= 0.003
        weight, bias = fitted.weight[0, place].double().numpy(), fitted.bias[0, place].double().numpy()
        least = objective(x, asked.train, theirs.coef_.T, theirs.intercept_, strength)
        assert objective(x, asked.train, weight, bias, strength) == pytest.approx(least, rel=1e-4)


def objective(x: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray, strength: float) -> float:
    """Mean cross-entropy of weights ``(d, C)`` and biases ``(C,)``, with the penalty of the weights."""
    scores = x @ weight + bias
    right = scores[np.arange(len(labels)), labels]
    return float((np.logaddexp.reduce(scores, axis=1) - right).mean() + strength / 2 * np.square(weight).sum())


@pytest.mark.parametrize("probe", ["ridge", "logistic"])
def test_rows_in_chunks_give_what_all_rows_give(probe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = task(probe)
    arrays = [features(asked.train, 0.3, 1)], [features(asked.test, 0.3, 2)]
    (whole,) = fit_taps(*arrays, asked)
    monkeypatch.setattr(logistic, "_READY", 0)
    monkeypatch.setattr(logistic, "CHUNK", 100)
    monkeypatch.setattr(ridge.Stack.chunks, "__defaults__", (100,))
    (parts,) = fit_taps(*arrays, asked)
    assert (whole.correct != parts.correct).mean() < 0.003


def test_constant_channels_and_a_large_offset_do_no_harm() -> None:
    asked = task("logistic")
    train, test = (
        np.c_[features(labels, 1, seed) + 1000, np.full(len(labels), 7.0)].astype(np.float32)
        for labels, seed in ((asked.train, 1), (asked.test, 2))
    )
    (fitted,) = fit_taps([train], [test], asked)
    assert fitted.correct.mean() > 0.8


def test_bootstrap_intervals_cover_as_often_as_they_say_and_pairs_are_narrower() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        estimate = Bootstrap(150, 400, seed).mean(rng.random(150) < 0.7)
        covered += estimate.low <= 0.7 <= estimate.high
    assert 0.9 <= covered / 200 <= 0.99
    before = rng.random(300) < 0.6
    after = before & (rng.random(300) < 0.9)
    pair = Bootstrap(300, 1000, 0)
    difference, alone = pair.difference(after, before), pair.mean(after)
    assert difference.value == pytest.approx(after.mean() - before.mean())
    assert difference.high - difference.low < alone.high - alone.low
    assert difference.p < 0.05
    assert pair.mean(np.ones(300)).method == "rule of three"
