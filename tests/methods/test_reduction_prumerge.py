"""PruMerge keeps and merges what the official code does, and with PruMerge+ what plain loops do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.methods.golden_cases import Case, parametrize
from vr_eval.methods.prumerge.rule import class_attention, kept_patches, outlier_share, reduce


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "prumerge_case", "prumerge")


def test_golden_prumerge(prumerge_case: Case) -> None:
    given, meta = prumerge_case.outputs, prumerge_case.meta
    ratio = None if meta.get("adaptive") else meta["ratio"]
    for image, expected in enumerate(given["tokens"]):
        keys = given["keys"][image]
        attention = class_attention(given["queries"][image, 0], keys)
        rows = reduce(attention, keys[1:], ratio, plus=meta.get("plus", False), neighbours=meta.get("neighbours", 32))
        torch.testing.assert_close(rows.apply(given["hidden"][image, 1:]), expected, atol=1e-5, rtol=1e-5)


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def reference_share(attention: list[float]) -> float:
    low, high = np.percentile(attention, 25), np.percentile(attention, 75)
    return sum(value > high + 1.5 * (high - low) for value in attention) / len(attention)


def reference_kept(attention: list[float], ratio: float | None, plus: bool) -> list[int]:
    total = len(attention)
    share = reference_share(attention) if ratio is None else ratio
    kept = sorted(range(total), key=lambda n: (-attention[n], n))[: int(total * share)]
    place, step = 0, max(1, int(int(1 / share) / 3)) if share else max(1, total // 3)
    while plus and place < total - 1:
        if place not in kept:
            kept.append(place)
        place += step
    return kept


def reference(attention: list[float], keys: list[list[float]], kept: list[int], neighbours: int) -> list[list[float]]:
    """The dense matrix, by loops over lists."""
    total, matrix = len(attention), []
    for token in kept:
        others = [n for n in range(total) if n != token]
        others.sort(key=lambda n: (-cosine(keys[token], keys[n]), n))
        near = others[:neighbours]
        matrix.append([1.0 if n == token else attention[n] if n in near else 0.0 for n in range(total)])
    if len(kept) < total:
        matrix.append([0.0 if n in kept else attention[n] for n in range(total)])
    return matrix


def drawn(patches: int, width: int = 6, sharp: float = 1.0) -> tuple[Tensor, Tensor]:
    """Attention ``(N,)`` with outliers, and keys."""
    source = torch.Generator().manual_seed(patches)
    logits = sharp * torch.randn(patches, generator=source, dtype=torch.float64)
    return logits.softmax(0), torch.randn(patches, width, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize(
    ("total", "ratio", "neighbours"),
    [(36, 0.25, 32), (49, None, 5), (121, None, 32), (25, 0.1, 32), (17, 1.0, 4), (9, 1 / 9, 0), (1, 1.0, 32)],
)
def test_agrees_with_loops(total: int, ratio: float | None, neighbours: int, plus: bool) -> None:
    attention, keys = drawn(total)
    kept = reference_kept(attention.tolist(), ratio, plus)
    matrix = reference(attention.tolist(), keys.tolist(), kept, neighbours)
    rows = reduce(attention, keys, ratio, plus=plus, neighbours=neighbours)
    assert kept_patches(attention, ratio, plus=plus).tolist() == kept
    left = sorted({*range(total)} - {*kept}, key=lambda n: -float(attention[n]))
    assert rows.home.tolist() == kept + left[:1]
    torch.testing.assert_close(rows.dense(total), torch.tensor(matrix))
    tokens = keys.flip(1)
    torch.testing.assert_close(rows.apply(tokens), torch.tensor(matrix, dtype=torch.float64) @ tokens)


@pytest.mark.parametrize("patches", [3, 25, 576])
def test_class_attention_is_a_softmax_over_all_tokens(patches: int) -> None:
    keys = drawn(patches + 1)[1]
    powers = [math.exp(sum((keys[0] * key).tolist()) / math.sqrt(6)) for key in keys]
    expected = [power / sum(powers) for power in powers[1:]]
    assert class_attention(keys[0], keys).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("patches", [1, 2, 30, 49, 576])
def test_outliers_are_those_of_numpy_percentiles(patches: int) -> None:
    attention = drawn(patches, sharp=2)[0]
    assert outlier_share(attention) == reference_share(attention.tolist())
    assert patches < 30 or outlier_share(attention) > 0


def test_where_no_patch_stands_out_all_become_one() -> None:
    attention = torch.full((12,), 1 / 13)
    assert outlier_share(attention) == 0
    rows = reduce(attention, torch.eye(12))
    assert rows.home.tolist() == [0]
    assert rows.dense(12).tolist() == [attention.tolist()]
    assert kept_patches(attention, plus=True).tolist() == [0, 4, 8]


def test_the_grid_of_plus_ends_before_the_last_patch() -> None:
    attention = torch.zeros(577)
    attention[[5, 576]] = torch.tensor([2.0, 3.0])
    assert kept_patches(attention, 2.5 / 577, plus=True).tolist() == [576, 5, *range(0, 576, 76)]


def test_ties_go_to_the_earlier_patch() -> None:
    rows = reduce(torch.full((9,), 0.1), torch.ones(9, 1), 0.23, neighbours=3)
    assert rows.home.tolist() == [0, 1, 2]
    assert [row.nonzero().flatten().tolist() for row in rows.dense(9)] == [[0, 1, 2, 3], [0, 1, 2, 3], [*range(2, 9)]]


def test_half_precision_selects_as_its_values_in_float32() -> None:
    attention, keys = (given.half() for given in drawn(81))
    for ratio, plus in [(None, False), (None, True), (0.2, False)]:
        found = reduce(attention, keys, ratio, plus=plus)
        expected = reduce(attention.float(), keys.float(), ratio, plus=plus)
        assert torch.equal(found.home, expected.home)
        torch.testing.assert_close(found.dense(81), expected.dense(81), atol=0, rtol=0)
    assert class_attention(keys[0], keys).dtype == torch.float32


@pytest.mark.parametrize("ratio", [0.0, -0.5, 0.05, 1.01, math.nan])
def test_a_ratio_that_cannot_be(ratio: float) -> None:
    attention, keys = drawn(16)
    with pytest.raises(ValueError, match=f"ratio {ratio} of 16 patches"):
        reduce(attention, keys, ratio)


def test_other_things_that_cannot_be() -> None:
    attention, keys = drawn(16)
    with pytest.raises(ValueError, match="0 patches"):
        reduce(attention[:0], keys[:0])
    with pytest.raises(ValueError, match="17 keys of 16 patches"):
        reduce(attention, torch.cat([keys, keys[:1]]))
    with pytest.raises(ValueError, match="-1 neighbours"):
        reduce(attention, keys, 0.5, neighbours=-1)
