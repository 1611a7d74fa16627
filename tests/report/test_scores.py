"""The numbers of a report: aggregation, pairing, seeds and coverage, each against a sum done another way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.report.fixture_run import CELLS, FakeCell, make_records, write_run
from vr_eval.reporting.configurations import Configuration
from vr_eval.reporting.scores import Scores, read_scores
from vr_eval.reporting.source import read_run


def load(path: Path, records: pd.DataFrame, **options: object) -> Scores:
    return read_scores(read_run(write_run(path, records, images=False, **options)))  # type: ignore[arg-type]


def row(scores: Scores, label: str) -> Configuration:
    return next(row for row in scores.configurations if row.label == label)


def test_suite_and_average_are_plain_means_of_answered_questions(run_dir: Path, records: pd.DataFrame) -> None:
    scores = read_scores(read_run(run_dir))
    for label, own in records.groupby("label"):
        suites = own.dropna(subset="score").groupby("suite")["score"].mean() * 100
        for suite, value in suites.items():
            assert scores.suite(row(scores, str(label)), str(suite)).value == pytest.approx(value)
        assert scores.average(row(scores, str(label))).value == pytest.approx(suites.mean())


def test_a_suite_of_two_tasks_is_the_mean_of_its_tasks_whatever_their_sizes(tmp_path: Path) -> None:
    small, large = make_records(per_task=30), make_records(per_task=90)
    small["task"] += "_small"
    scores = load(tmp_path, pd.concat([small, large]))
    means = [frame[(frame.suite == "ocr") & frame.is_baseline]["score"].mean() for frame in (small, large)]
    assert scores.suite(row(scores, "mlp"), "ocr").value == pytest.approx(50 * sum(means))


def test_a_benchmark_of_category_means_is_the_mean_of_its_categories(tmp_path: Path) -> None:
    records = make_records(suites=["general"])
    records["task"] = "mme"
    records.loc[records["doc_id"] < 9, ["kind", "score"]] = ["existence", 0.25]  # a small, hard category
    scores = load(tmp_path, records)
    own = records[records.is_baseline]
    expected = own.groupby("kind")["score"].mean()
    assert scores.suite(row(scores, "mlp"), "general").value == pytest.approx(100 * expected.mean())
    assert 100 * own["score"].mean() != pytest.approx(100 * expected.mean(), abs=1e-3)
    other = row(scores, "avg_pool 1/4")
    theirs = records[records.label == other.label].groupby("kind")["score"].mean()
    difference = scores.difference(other, row(scores, "mlp"), "general").value
    assert difference == pytest.approx(100 * (theirs - expected).mean())


def test_failed_questions_lower_the_coverage_and_never_the_score(run_dir: Path) -> None:
    scores = read_scores(read_run(run_dir))
    partial = row(scores, "tokenpacker 1/4 + vision_remember")
    assert scores.answered(partial) == scores.asked - 12
    assert scores.questions(partial) == 468
    assert scores.suite(partial, "ocr").n == 117


def test_differences_use_only_questions_that_both_answered(run_dir: Path, records: pd.DataFrame) -> None:
    scores = read_scores(read_run(run_dir))
    ours, other = row(scores, "tokenpacker 1/4 + vision_remember"), row(scores, "tokenpacker 1/4")
    table = records[records.suite == "doc"].pivot(index="doc_id", columns="label", values="score")
    gaps = (table[ours.label] - table[other.label]).dropna()
    estimate = scores.difference(ours, other, "doc")
    assert estimate.n == len(gaps) == 117
    assert estimate.value == pytest.approx(100 * gaps.mean())


def test_pairing_narrows_the_interval(run_dir: Path) -> None:
    scores = read_scores(read_run(run_dir))
    ours, other = row(scores, "pixel_shuffle 1/4"), row(scores, "mlp")
    assert scores.difference(ours, other).se < np.hypot(scores.average(ours).se, scores.average(other).se)


def test_the_difference_to_the_same_projector_finds_its_partner_by_everything_else(tmp_path: Path) -> None:
    wide = '{"tokenpacker": {"heads": 2}}'
    both = '{"tokenpacker": {"heads": 2}, "vision_remember": {"scope": "global"}}'
    cells = (
        FakeCell("tokenpacker"),
        FakeCell("tokenpacker", options=wide),
        FakeCell("tokenpacker", refusion="vision_remember", options=both),
        FakeCell("tokenpacker", ratio=9, refusion="vision_remember"),
    )
    scores = load(tmp_path, make_records(cells, per_task=12, failures=0))
    assert [(a.ratio, dict(a.options), dict(b.options)) for a, b in scores.pairs] == [
        (4, {"tokenpacker": {"heads": 2}, "vision_remember": {"scope": "global"}}, {"tokenpacker": {"heads": 2}})
    ]


def test_the_mean_over_pairs_averages_per_question_before_its_interval(run_dir: Path) -> None:
    scores = read_scores(read_run(run_dir))
    single = scores.mean_difference([scores.pairs[0]])
    repeated = scores.mean_difference([scores.pairs[0]] * 3)
    # The same pair three times is no more evidence than once.
    assert (repeated.low, repeated.high) == (pytest.approx(single.low), pytest.approx(single.high))


def test_seeds_are_averaged_per_question_and_spread_apart(tmp_path: Path) -> None:
    cells = [dataclasses.replace(cell, seed=seed) for cell in CELLS for seed in (0, 1, 2)]
    records = make_records(cells, per_task=60, failures=0)
    scores = load(tmp_path, records)
    assert len(scores.configurations) == 7
    own = records[records.label == "avg_pool 1/4"]
    by_seed = own.groupby(["seed", "suite"])["score"].mean().groupby("seed").mean() * 100
    average = scores.average(row(scores, "avg_pool 1/4"))
    assert average.value == pytest.approx(by_seed.mean())
    assert average.n == 240
    assert scores.spread(row(scores, "avg_pool 1/4")) == pytest.approx(by_seed.std())


def test_seeds_are_matched_so_that_a_failure_in_one_seed_costs_that_seed_only(tmp_path: Path) -> None:
    pair = (FakeCell("avg_pool"), FakeCell("avg_pool", refusion="vision_remember"))
    records = make_records([dataclasses.replace(c, seed=s) for c in pair for s in (0, 1)], per_task=30, failures=0)
    broken = (records.seed == 1) & (records.refusion == "none") & (records.doc_id == 3)
    records.loc[broken, "failure"] = "boom"
    scores = load(tmp_path, records)
    difference = scores.difference(*scores.pairs[0], "ocr")
    table = records[(records.suite == "ocr") & (records.failure == "")].pivot(
        index=["doc_id", "seed"], columns="refusion", values="score"
    )
    gaps = (table["vision_remember"] - table["none"]).groupby("doc_id").mean()
    assert difference.n == 30
    assert difference.value == pytest.approx(100 * gaps.mean())


def test_rows_that_differ_in_their_recipe_stay_apart_and_say_so(tmp_path: Path) -> None:
    records = make_records((FakeCell("avg_pool"), FakeCell("avg_pool", backbone="micro")), per_task=6, failures=0)
    records.loc[len(records) // 2 :, "cell_id"] = "other"
    cells = [
        FakeCell("avg_pool").columns | {"cell_id": name, "recipe": {"lr": 0.1, "steps": steps}}
        for name, steps in ((FakeCell("avg_pool").cell_id, 100), ("other", 200))
    ]
    scores = load(tmp_path, records, cells=cells)
    assert sorted(row.variant for row in scores.configurations) == ["steps=100", "steps=200"]


def test_recipes_recorded_flat_and_with_stages_are_compared(tmp_path: Path) -> None:
    records = make_records((FakeCell("avg_pool"), FakeCell("avg_pool", backbone="micro")), per_task=6, failures=0)
    records.loc[len(records) // 2 :, "cell_id"] = "other"
    recipes = ({"stage1_steps": 1, "stage2_steps": 2}, {"stage1": {"steps": 1}, "stage2": {"steps": 3}})
    cells = [
        FakeCell("avg_pool").columns | {"cell_id": name, "recipe": recipe}
        for name, recipe in zip((FakeCell("avg_pool").cell_id, "other"), recipes, strict=True)
    ]
    scores = load(tmp_path, records, cells=cells)
    assert sorted(row.variant for row in scores.configurations) == ["stage2_steps=2", "stage2_steps=3"]


def test_the_baseline_comes_first_and_refusion_after_its_projector(run_dir: Path) -> None:
    labels = [row.label for row in read_scores(read_run(run_dir)).configurations]
    assert labels[:3] == ["mlp", "avg_pool 1/4", "avg_pool 1/4 + vision_remember"]
