"""DART keeps its pivots and what is least like them, as loops written from the definition find."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vr_eval.methods.dart.rule import keep


def reference(tokens: list[list[float]], keys: list[list[float]], count: int, pivots: int) -> list[int]:
    stay: list[int] = []
    while len(stay) < min(pivots, count):
        stay.append(max((n for n in range(len(keys)) if n not in stay), key=lambda n: (math.hypot(*keys[n]), -n)))
    chosen = list(stay)

    def likeness(number: int) -> float:
        lengths = [math.hypot(*tokens[number]) * math.hypot(*tokens[pivot]) for pivot in chosen]
        products = [sum(a * b for a, b in zip(tokens[number], tokens[pivot], strict=True)) for pivot in chosen]
        return max(product / length for product, length in zip(products, lengths, strict=True))

    while len(stay) < count:
        stay.append(min((n for n in range(len(keys)) if n not in stay), key=lambda n: (likeness(n), n)))
    return sorted(stay)


def drawn(total: int, width: int, key: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(total * 100 + width)
    return (
        torch.randn(total, width, generator=source, dtype=torch.float64),
        torch.randn(total, key, generator=source, dtype=torch.float64),
    )


@pytest.mark.parametrize(
    ("total", "count", "pivots"), [(16, 6, 4), (17, 9, 1), (9, 9, 3), (9, 1, 4), (1, 1, 4), (25, 8, 8), (13, 5, 2)]
)
def test_agrees_with_loops(total: int, count: int, pivots: int) -> None:
    tokens, keys = drawn(total, 6, 5)
    rows = keep(tokens, keys, count, pivots)
    assert rows.home.tolist() == reference(tokens.tolist(), keys.tolist(), count, pivots)
    assert torch.equal(rows.apply(tokens), tokens[rows.home])


def test_pivots_stay_and_their_doubles_go() -> None:
    tokens = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    keys = torch.tensor([[1.0], [-3.0], [2.0], [0.5]])
    assert keep(tokens, keys, 1, 1).home.tolist() == [1]
    assert keep(tokens, keys, 2, 1).home.tolist() == [1, 3]
    assert keep(tokens, keys, 3, 2).home.tolist() == [1, 2, 3]


def test_ties_go_to_the_earlier_token() -> None:
    same = torch.ones(5, 3)
    assert keep(same, same, 3, 1).home.tolist() == [0, 1, 2]
    keys = torch.tensor([[1.0], [2.0], [-2.0], [2.0], [1.0]])
    assert keep(torch.eye(5), keys, 2, 2).home.tolist() == [1, 2]
    assert keep(torch.eye(5), keys, 3, 1).home.tolist() == [0, 1, 2]


def test_half_precision_selects_as_its_values_in_float32() -> None:
    tokens, keys = (given.half() for given in drawn(31, 12, 9))
    large = keys * 1000  # its squares are beyond float16
    assert torch.equal(keep(tokens, large, 11).home, keep(tokens.float(), large.float(), 11).home)


@pytest.mark.parametrize("count", [0, -1, 10])
def test_a_number_of_tokens_that_cannot_be(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} tokens to keep; allowed: 1 to 9"):
        keep(*drawn(9, 4, 4), count)


def test_pivots_and_keys_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="0 pivots"):
        keep(*drawn(9, 4, 4), 3, 0)
    with pytest.raises(ValueError, match="9 tokens, but 8 keys"):
        keep(drawn(9, 4, 4)[0], drawn(8, 4, 4)[1], 3)
