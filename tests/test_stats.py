"""The intervals agree with scipy, sums by hand and simulation, and survive empty and constant cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from vr_eval.stats import (
    Estimate,
    clustered_mean,
    combine,
    holm,
    over_seeds,
    paired_difference,
    seed_spread,
    stratified_mean,
)


def test_one_question_per_cluster_is_the_ordinary_standard_error_and_t_interval() -> None:
    scores = np.random.default_rng(0).random(40)
    estimate = clustered_mean(scores, range(40))
    assert estimate.se == pytest.approx(scipy_stats.sem(scores))
    low, high = scipy_stats.t.interval(0.95, 39, scores.mean(), scipy_stats.sem(scores))
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))
    assert (estimate.n, estimate.clusters, estimate.method) == (40, 40, "t")


def test_paired_difference_with_one_question_per_cluster_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(60), rng.random(60)
    ours, theirs = paired_difference(a, b, [f"image{i}" for i in range(60)]), scipy_stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_clustered_standard_error_matches_the_sum_done_by_hand() -> None:
    # Clusters (1, 1), (0, 1), (0, 0, 0): mean 3/7; summed residuals 8/7, 1/7, -9/7; their squares sum to 146/49.
    estimate = clustered_mean([1, 1, 0, 1, 0, 0, 0], ["a", "a", "b", "b", "c", "c", "c"])
    assert estimate.value == pytest.approx(3 / 7)
    assert estimate.se == pytest.approx(math.sqrt(3 / 2 * 146 / 49) / 7)
    assert estimate.dof == 2


def test_two_clusters_are_enough_for_an_interval() -> None:
    estimate = clustered_mean([0.0, 0.5, 1.0], ["a", "a", "b"])
    assert (estimate.dof, estimate.clusters, estimate.method) == (1, 2, "t")
    # Residuals -0.5 - 0.0 and 0.5, times G / (G - 1) = 2.
    assert estimate.se == pytest.approx(math.sqrt(2 * 2 * 0.5**2) / 3)


def test_clusters_that_agree_inside_widen_the_interval() -> None:
    clusters = np.repeat(np.arange(50), 4)
    scores = np.repeat(np.random.default_rng(2).integers(0, 2, 50), 4)
    naive = clustered_mean(scores, range(200))
    assert clustered_mean(scores, clusters).se == pytest.approx(2 * naive.se, rel=0.02)


@pytest.mark.parametrize("per_cluster", [1, 4])
def test_ninety_five_percent_intervals_cover_the_truth_about_95_times_in_100(per_cluster: int) -> None:
    rng, truth, hits = np.random.default_rng(3), 0.7, 0
    clusters = np.repeat(np.arange(100), per_cluster)
    for _ in range(400):
        difficulty = rng.beta(7, 3, 100)  # mean 0.7: questions on one image share how hard it is
        estimate = clustered_mean(rng.random(clusters.size) < difficulty[clusters], clusters)
        hits += estimate.low <= truth <= estimate.high
    assert 0.92 <= hits / 400 <= 0.98


def test_paired_intervals_cover_a_true_difference_and_are_narrower_than_unpaired_ones() -> None:
    rng, hits, narrower = np.random.default_rng(4), 0, 0
    for _ in range(400):
        hard = rng.random(80)
        a, b = (hard < 0.8).astype(float), (hard < 0.7).astype(float)
        flips = rng.random(80) < 0.1
        a[flips] = 1 - a[flips]
        truth = 0.9 * 0.8 + 0.1 * 0.2 - 0.7
        paired = paired_difference(a, b, range(80))
        hits += paired.low <= truth <= paired.high
        narrower += paired.se < math.hypot(clustered_mean(a, range(80)).se, clustered_mean(b, range(80)).se)
    assert 0.92 <= hits / 400 <= 0.98
    assert narrower > 390


@pytest.mark.parametrize(("score", "low", "high"), [(1.0, 0.05 ** (1 / 30), 1.0), (0.0, 0.0, 1 - 0.05 ** (1 / 30))])
def test_all_right_and_all_wrong_get_the_rule_of_three_and_no_zero_width(score: float, low: float, high: float) -> None:
    estimate = clustered_mean([score] * 30, range(30))
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))
    assert estimate.method == "rule of three"
    assert estimate.high - estimate.low == pytest.approx(3 / 30, rel=0.06)


@pytest.mark.parametrize("score", [0.0, 0.25, 0.8, 1.0])
@pytest.mark.parametrize("bottom", [0.0, -1.0])
def test_without_spread_the_standard_error_reaches_as_far_as_the_longer_side(score: float, bottom: float) -> None:
    estimate = clustered_mean([score] * 12, range(12), bottom)
    share = 1 - 0.05 ** (1 / 12)
    assert estimate.low == pytest.approx(score - share * (score - bottom))
    assert estimate.high == pytest.approx(score + share * (1 - score))
    reach = estimate.se * scipy_stats.t.ppf(0.975, 11)
    assert reach == pytest.approx(share * max(score - bottom, 1 - score))
    assert (estimate.n, estimate.clusters, estimate.dof) == (12, 12, 11)


def test_two_methods_that_never_differ_get_an_interval_around_zero() -> None:
    scores = [0, 1, 1, 0, 1] * 8
    estimate = paired_difference(scores, scores, range(40))
    assert (estimate.value, estimate.p) == (0.0, 1.0)
    assert estimate.low == pytest.approx(-estimate.high)
    assert estimate.high > 0.05
    assert not estimate.excludes_zero
    # In strata too a question that was not asked might have come out at -1 or at 1.
    strata = ["a"] * 20 + ["b"] * 20
    halves = paired_difference(scores[:20], scores[:20], range(20))
    assert paired_difference(scores, scores, range(40), strata) == combine([halves, halves])


def test_always_better_has_a_small_p_value_that_fits_its_interval() -> None:
    estimate = paired_difference([1.0] * 20, [0.0] * 20, range(20))
    assert estimate.value == 1.0
    assert 0.6 < estimate.low < 0.8
    assert estimate.high == 1.0
    assert estimate.p < 0.001
    assert estimate.excludes_zero
    # p is the level at which the interval touches zero: with 3 clusters both sides of that line are near.
    assert paired_difference([1.0] * 4, [0.0] * 4, range(4)).excludes_zero is (2**-4 < 0.05)
    assert paired_difference([1.0] * 5, [0.0] * 5, range(5)).excludes_zero is (2**-5 < 0.05)


def test_clusters_of_the_same_mean_do_not_make_the_interval_vanish() -> None:
    estimate = clustered_mean([0, 1] * 10, np.repeat(np.arange(10), 2))
    assert estimate.value == 0.5
    assert estimate.high - estimate.low > 0.2
    assert estimate.note == "no spread between clusters"


@pytest.mark.parametrize(
    ("scores", "clusters", "note"),
    [
        ([], [], "no question was answered"),
        ([math.nan, math.nan], ["a", "b"], "no question was answered"),
        ([0.0, 1.0, 1.0], ["a", "a", "a"], "one cluster only, no interval"),
        ([1.0], ["a"], "one cluster only, no interval"),
    ],
)
def test_what_cannot_be_estimated_is_nan_with_a_reason(scores: list[float], clusters: list[str], note: str) -> None:
    estimate = clustered_mean(scores, clusters)
    assert not estimate.bounded
    assert math.isnan(estimate.se)
    assert estimate.note == note


def test_unanswered_questions_are_left_out_and_pairs_need_both_answers() -> None:
    nan = math.nan
    assert clustered_mean([1.0, nan, 0.0, nan], list("abcd")).n == 2
    estimate = paired_difference([1.0, nan, 0.0, 1.0], [0.0, 1.0, nan, 1.0], list("abcd"))
    assert (estimate.n, estimate.value) == (2, 0.5)
    assert paired_difference([1.0, nan], [nan, 1.0], list("ab")).note == "no question that both answered"


def test_scores_may_be_right_or_wrong_instead_of_numbers() -> None:
    right, others = [True, False, True, True], [False, False, True, False]
    assert clustered_mean(right, range(4)) == clustered_mean([1.0, 0.0, 1.0, 1.0], range(4))
    assert paired_difference(right, others, range(4)) == paired_difference([1, 0, 1, 1], [0, 0, 1, 0], range(4))


def test_lengths_that_differ_are_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="2 scores but 1 clusters"):
        clustered_mean([1.0, 0.0], ["a"])
    with pytest.raises(ValueError, match="2 scores against 1"):
        paired_difference([1.0, 0.0], [1.0], ["a", "b"])


def test_average_of_tasks_adds_variances_and_is_welch_for_two() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.5, 0.1, 20), rng.normal(0.4, 0.2, 35)
    parts = [clustered_mean(a, range(20)), clustered_mean(b, range(35))]
    whole = combine(parts)
    assert whole.value == pytest.approx((a.mean() + b.mean()) / 2)
    assert whole.se == pytest.approx(math.hypot(parts[0].se, parts[1].se) / 2)
    assert whole.dof == pytest.approx(scipy_stats.ttest_ind(a, b, equal_var=False).df)
    assert (whole.n, whole.clusters) == (55, 55)


def test_combining_in_stages_equals_combining_at_once() -> None:
    rng = np.random.default_rng(6)
    parts = [clustered_mean(rng.random(30), range(30)) for _ in range(4)]
    staged, flat = combine([combine(parts[:2]), combine(parts[2:])]), combine(parts)
    assert (staged.low, staged.dof) == (pytest.approx(flat.low), pytest.approx(flat.dof))


def test_an_unknown_part_makes_the_average_unknown_and_one_part_is_itself() -> None:
    known, single = clustered_mean([0, 1, 1], range(3)), clustered_mean([1], [0])
    assert math.isnan(combine([known, Estimate()]).value)
    assert combine([known, single]).known
    assert not combine([known, single]).bounded
    assert combine([known]) is known
    assert not combine([]).known


def test_a_part_without_spread_still_widens_the_average() -> None:
    spread, certain = clustered_mean([0, 1] * 20, range(40)), clustered_mean([1.0] * 40, range(40))
    assert combine([spread, certain]).se > spread.se / 2


def test_seeds_are_averaged_per_question_and_their_spread_is_separate() -> None:
    scores = [[1.0, 0.0, math.nan], [0.0, 0.0, math.nan]]
    np.testing.assert_array_equal(over_seeds(scores), [0.5, 0.0, math.nan])
    assert seed_spread([0.5, 0.7, math.nan]) == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert math.isnan(seed_spread([0.5]))


def test_holm_steps_down_and_keeps_order() -> None:
    assert holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(holm([math.nan])[0])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_scaling_to_points_scales_everything_but_p_and_counts() -> None:
    estimate = clustered_mean([0, 1, 1, 1], range(4))
    points = estimate.scaled(100)
    assert (points.value, points.low, points.p, points.n) == (75.0, estimate.low * 100, estimate.p, 4)
    assert (points.se, points.high, points.dof) == (estimate.se * 100, estimate.high * 100, estimate.dof)


def test_strata_count_the_same_whatever_their_sizes() -> None:
    scores, strata = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b", "b", "b"]
    clusters = list(range(6))
    estimate = stratified_mean(scores, clusters, strata)
    parts = [clustered_mean(scores[:2], clusters[:2]), clustered_mean(scores[2:], clusters[2:])]
    assert estimate == combine(parts)
    assert estimate.value == 0.5
    assert not stratified_mean([1.0, math.nan], [0, 1], ["a", "b"]).known
    other = [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
    assert paired_difference(scores, other, clusters, strata).value == (0.5 - 0.25) / 2
    assert (
        paired_difference(scores, other, clusters, ["a"] * 6).value == paired_difference(scores, other, clusters).value
    )
