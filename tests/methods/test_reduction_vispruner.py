"""VisPruner keeps what the official code keeps, and what plain loops keep."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.methods.golden_cases import Case, parametrize
from vr_eval.methods.vispruner.rule import diverse, keep


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "vispruner_case", "vispruner")


def test_golden_vispruner(vispruner_case: Case) -> None:
    given, meta = vispruner_case.outputs, vispruner_case.meta
    for features, attention, kept in zip(given["features"], given["cls_attention"], given["kept"], strict=True):
        rows = keep(features, attention, meta["tokens"], meta["important_ratio"])
        assert rows.home.tolist() == kept.nonzero().flatten().tolist()


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def reference_diverse(features: list[list[float]], order: list[int], count: int) -> list[int]:
    while len(order) > count:
        a: list[int] = []
        b: list[int] = []
        for place, token in enumerate(order):
            last_of_odd = len(order) % 2 == 1 and place == len(order) - 1
            (b if place % 2 or last_of_odd else a).append(token)
        best = {token: max(cosine(features[token], features[other]) for other in b) for token in a}
        a.sort(key=lambda token: -best[token])
        order = a[min(8, len(order) - count) :] + b
    return order


def reference(features: Tensor, attention: Tensor, count: int, ratio: float) -> list[int]:
    score = [sum(column) / len(column) for column in attention.T.tolist()]
    order = sorted(range(len(score)), key=lambda n: (-score[n], n))
    important = int(count * ratio)
    rest = reference_diverse(features.tolist(), order[important:], count - important) if count > important else []
    return sorted(order[:important] + rest)


def drawn(total: int, heads: int = 3, width: int = 6) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(total * 10 + heads)
    return (
        torch.randn(total, width, generator=source, dtype=torch.float64),
        torch.rand(heads, total, generator=source, dtype=torch.float64),
    )


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(
    ("total", "count"), [(64, 16), (49, 12), (81, 7), (25, 25), (24, 1), (9, 2), (2, 1), (1, 1), (100, 83)]
)
def test_agrees_with_loops(total: int, count: int, ratio: float) -> None:
    features, attention = drawn(total)
    kept = reference(features, attention, count, ratio)
    rows = keep(features, attention, count, ratio)
    assert len(kept) == count
    assert rows.home.tolist() == kept
    assert torch.equal(rows.apply(features), features[kept])


@pytest.mark.parametrize("count", [1, 2, 20, 30])
def test_diverse_tokens_come_in_the_order_of_the_steps(count: int) -> None:
    features, attention = drawn(43)
    order = attention.sum(0).argsort(descending=True)[:31]
    assert diverse(features, order, count).tolist() == reference_diverse(features.tolist(), order.tolist(), count)


def test_with_all_important_features_do_not_matter() -> None:
    features, attention = drawn(20)
    highest = attention.mean(0).argsort(descending=True)[:6].sort().values
    assert torch.equal(keep(torch.zeros_like(features), attention, 6, 1).home, highest)


def test_of_two_alike_the_less_attended_stays() -> None:
    """Places 0 and 2 are a; 1 and 3 are b, and never dropped in this step."""
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [1.0, 0.1]])
    assert diverse(features, torch.arange(4), 3).tolist() == [2, 1, 3]


def test_ties_go_by_place() -> None:
    features, attention = torch.ones(11, 1), torch.ones(2, 11)
    assert keep(features, attention, 4, 1).home.tolist() == [0, 1, 2, 3]
    assert diverse(features, torch.arange(11), 8).tolist() == [6, 8, 1, 3, 5, 7, 9, 10]
    assert keep(features, attention, 6, 0.5).home.tolist() == [0, 1, 2, 6, 8, 10]  # of 3 .. 10: 4 6 8 10, then 8 6 10


def test_half_precision_selects_as_its_values_in_float32() -> None:
    features, attention = (given.half() for given in drawn(81, heads=16))
    found = keep(features, attention, 20).home
    assert torch.equal(found, keep(features.float(), attention.float(), 20).home)


@pytest.mark.parametrize("count", [0, -1, 10])
def test_a_number_of_tokens_that_cannot_be(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} of 9 tokens to keep by 9 scores; allowed: 1 to 9"):
        keep(*drawn(9), count)


def test_other_things_that_cannot_be() -> None:
    features, attention = drawn(9)
    for ratio in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=f"a share of {ratio} important"):
            keep(features, attention, 3, ratio)
    with pytest.raises(ValueError, match="3 of 8 tokens to keep by 9 scores"):
        keep(features[1:], attention, 3)
    for count in (-1, 10):
        with pytest.raises(ValueError, match=f"{count} diverse tokens; allowed: 0 to 9"):
            diverse(features, torch.arange(9), count)
