"""DivPrune chooses what the official code chooses, and what plain loops choose."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.methods.golden_cases import Case, parametrize
from vr_eval.methods.divprune.rule import keep, kept_count, order


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "divprune_case", "divprune")


def test_golden_divprune(divprune_case: Case) -> None:
    given = divprune_case.outputs
    tokens = given["tokens"].squeeze(0) if given["tokens"].dim() == 3 else given["tokens"]
    count = kept_count(len(tokens), divprune_case.meta["ratio"])
    assert order(tokens, count).tolist() == given["order"].flatten().tolist()
    assert keep(tokens, count).home.tolist() == given["kept"].flatten().tolist()


def reference_order(tokens: list[list[float]], count: int) -> list[int]:
    def distance(one: int, other: int) -> float:
        products = sum(a * b for a, b in zip(tokens[one], tokens[other], strict=True))
        return 1 - products / (math.hypot(*tokens[one]) * math.hypot(*tokens[other]))

    everyone, chosen = range(len(tokens)), list[int]()
    for step in range(count):
        best, farthest = -1, -math.inf
        for token in (n for n in everyone if n not in chosen):
            rivals = chosen if step else [n for n in everyone if n != token]
            nearest = min((distance(token, other) for other in rivals), default=math.inf)
            if nearest > farthest:
                best, farthest = token, nearest
        chosen.append(best)
    return chosen


def drawn(total: int, width: int = 7) -> Tensor:
    return torch.randn(total, width, generator=torch.Generator().manual_seed(total), dtype=torch.float64)


@pytest.mark.parametrize(("total", "count"), [(36, 9), (49, 5), (25, 25), (17, 1), (2, 2), (1, 1)])
def test_agrees_with_loops(total: int, count: int) -> None:
    tokens = drawn(total)
    chosen = reference_order(tokens.tolist(), count)
    assert order(tokens, count).tolist() == chosen
    rows = keep(tokens, count)
    assert rows.home.tolist() == sorted(chosen)
    assert torch.equal(rows.apply(tokens), tokens[sorted(chosen)])


def test_length_does_not_matter() -> None:
    tokens = drawn(30)
    assert torch.equal(order(tokens, 10), order(tokens * torch.linspace(0.1, 9, 30)[:, None], 10))


def test_ties_go_to_the_earlier_token() -> None:
    assert order(torch.eye(6), 6).tolist() == [0, 1, 2, 3, 4, 5]
    axes = torch.eye(3)[[0, 0, 1, 1, 2]]
    assert order(axes, 5).tolist() == [4, 0, 2, 1, 3]


def test_no_token_is_chosen_twice_among_copies() -> None:
    tokens = drawn(5).repeat(3, 1)
    assert sorted(order(tokens, 15).tolist()) == [*range(15)]


def test_half_precision_selects_as_its_values_in_float32() -> None:
    tokens = drawn(81, width=40).half()
    assert torch.equal(order(tokens, 20), order(tokens.float(), 20))


def test_how_many_a_ratio_keeps() -> None:
    assert kept_count(576) == 56
    assert kept_count(2340) == 229
    assert [kept_count(10, ratio) for ratio in (0.25, 0.35, 1.0)] == [2, 4, 10]  # a half goes to the even number
    for total, ratio in [(5, 0.098), (10, 1.1), (10, -0.2), (0, 0.5)]:
        with pytest.raises(ValueError, match=f"ratio {ratio} of {total} tokens"):
            kept_count(total, ratio)


@pytest.mark.parametrize("count", [0, -1, 10])
def test_a_number_of_tokens_that_cannot_be(count: int) -> None:
    for function in (order, keep):
        with pytest.raises(ValueError, match=f"{count} tokens to keep; allowed: 1 to 9"):
            function(drawn(9), count)
