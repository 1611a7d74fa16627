"""PyramidDrop keeps what the official code keeps, and ranks as attention written with loops does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.methods.golden_cases import Case, parametrize
from vr_eval.methods.pyramiddrop.rule import asking_rows, keep, received, stage_counts


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "pyramiddrop_case", "pyramiddrop")


def rotated(flat: Tensor, size: int, theta: float) -> Tensor:
    """``(S, heads * d)`` to ``(heads, S, d)``, turned by the place: channel i goes with channel i + d / 2."""
    heads = flat.unflatten(1, (-1, size)).transpose(0, 1)
    turn = torch.arange(len(flat))[:, None] / theta ** (torch.arange(0, size, 2) / size)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * turn.cos() - second * turn.sin(), second * turn.cos() + first * turn.sin()], dim=-1)


def test_golden_pyramiddrop(pyramiddrop_case: Case) -> None:
    meta, given = pyramiddrop_case.meta, pyramiddrop_case.outputs
    hidden = given["hidden"].squeeze(0)
    last, first, count = len(hidden) - 1, meta["image_start"], meta["image_tokens"]
    normed = hidden * (hidden.square().mean(dim=1, keepdim=True) + meta["norm_eps"]).rsqrt() * given["norm_weight"]
    queries, keys = (
        rotated(normed @ given[name].T, meta["head_dim"], meta["rope_theta"]) for name in ("q_weight", "k_weight")
    )
    assert (len(queries), len(keys)) == (meta["heads"], meta["kv_heads"])
    rows = asking_rows(torch.zeros(len(hidden), dtype=torch.bool))
    seen = received(queries[:, rows], keys, rows)
    kept = keep(seen[first : first + count], meta["keep"])
    stayed = [*range(first), *(first + kept.home).tolist(), *range(first + count, last + 1)]
    assert stayed == given["kept"].tolist()
    assert list(range(len(stayed))) == given["positions"].flatten().tolist()


def reference(queries: Tensor, keys: Tensor, rows: list[int], scaling: float) -> list[float]:
    heads, shared = len(queries), len(queries) // len(keys)
    total = [0.0] * keys.shape[1]
    for head in range(heads):
        for number, row in enumerate(rows):
            weight = [
                math.exp(scaling * sum(a * b for a, b in zip(queries[head, number], key, strict=True)))
                for key in keys[head // shared, : row + 1]
            ]
            for place, value in enumerate(weight):
                total[place] += value / sum(weight) / heads / len(rows)
    return total


def drawn(heads: int, groups: int, length: int, rows: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(heads * 100 + length)
    return (
        torch.randn(heads, rows, 4, generator=source, dtype=torch.float64),
        torch.randn(groups, length, 4, generator=source, dtype=torch.float64),
    )


@pytest.mark.parametrize(
    ("heads", "groups", "length", "rows"),
    [(2, 2, 9, [8]), (6, 2, 7, [3, 6]), (4, 1, 11, [0, 4, 5]), (1, 1, 1, [0]), (3, 3, 5, [1])],
)
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_agrees_with_loops(heads: int, groups: int, length: int, rows: list[int], scaling: float | None) -> None:
    queries, keys = drawn(heads, groups, length, len(rows))
    found = received(queries, keys, torch.tensor(rows), scaling)
    expected = torch.tensor(reference(queries, keys, rows, 0.5 if scaling is None else scaling), dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    for count in range(1, length + 1):
        ranked = sorted(range(length), key=lambda place: (-expected[place].item(), place))
        assert keep(found, count).home.tolist() == sorted(ranked[:count])


def test_ties_go_to_the_earlier_token() -> None:
    assert keep(torch.tensor([1.0, 2.0, 1.0, 2.0, 2.0]), 2).home.tolist() == [1, 3]
    assert keep(torch.zeros(7), 3).home.tolist() == [0, 1, 2]


def test_half_precision_selects_as_its_values_in_float32() -> None:
    queries, keys = (given.half() * 40 for given in drawn(4, 2, 33, 1))
    rows = torch.tensor([32])
    found = received(queries, keys, rows)
    assert found.dtype == torch.float32
    assert torch.equal(found, received(queries.float(), keys.float(), rows))


def test_stage_counts() -> None:
    assert stage_counts(576) == (288, 144, 72)
    assert stage_counts(25) == (12, 6, 3)
    assert stage_counts(5) == (2, 1, 1)
    assert stage_counts(10, (1.0, 0.39, 0.39)) == (10, 3, 3)


@pytest.mark.parametrize("ratios", [(0.5, 0.6), (1.5,), (0.5, 0.0), (-0.1,)])
def test_ratios_that_cannot_be(ratios: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ratios"):
        stage_counts(16, ratios)


def test_asking_rows_precede_an_answer_or_are_the_last() -> None:
    def marks(text: str) -> Tensor:
        return torch.tensor([letter == "a" for letter in text])

    assert asking_rows(marks(".....")).tolist() == [4]
    assert asking_rows(marks("..aa.")).tolist() == [1]
    assert asking_rows(marks("..aa..a")).tolist() == [1, 5]
    assert asking_rows(marks("a..a")).tolist() == [2]


def test_what_cannot_be_is_refused() -> None:
    queries, keys = drawn(3, 2, 5, 1)
    with pytest.raises(ValueError, match="3 heads do not divide into 2 groups"):
        received(queries, keys, torch.tensor([4]))
    queries, keys = drawn(2, 2, 5, 1)
    for rows in ([5], [-1], [3, 4]):
        with pytest.raises(ValueError, match="1 queries at rows"):
            received(queries, keys, torch.tensor(rows))
    with pytest.raises(ValueError, match="0 queries at rows"):
        received(queries[:, :0], keys, torch.tensor([], dtype=torch.long))
    for count in (0, 6):
        with pytest.raises(ValueError, match=f"{count} tokens to keep; allowed: 1 to 5"):
            keep(torch.ones(5), count)
    with pytest.raises(ValueError, match="0 image tokens"):
        stage_counts(0)
    with pytest.raises(ValueError, match="0 tokens"):
        asking_rows(torch.zeros(0, dtype=torch.bool))
