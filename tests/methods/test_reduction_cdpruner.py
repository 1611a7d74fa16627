"""CDPruner keeps what the official code keeps, and what a search among vectors, written with loops, finds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.methods.golden_cases import Case, parametrize
from vr_eval.methods.cdpruner.rule import greedy_map, keep, kernel, relevance


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "cdpruner_case", "cdpruner")


def test_golden_cdpruner(cdpruner_case: Case) -> None:
    given = cdpruner_case.outputs
    projected, image = given["projected"].squeeze(0), given["image_embeds"].squeeze(0)
    rows = keep(projected, image, given["text_embeds"], cdpruner_case.meta["tokens"])
    assert rows.home.tolist() == given["kept"].squeeze(0).nonzero().flatten().tolist()


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def reference_relevance(image: list[list[float]], text: list[list[float]]) -> list[float]:
    away = [-sum(cosine(token, segment) for segment in text) / len(text) for token in image]
    low, high = min(away), max(away)
    return [(value - low + 1e-6) / (high - low) if high > low else 1.0 for value in away]


def reference_picks(tokens: list[list[float]], weight: list[float], count: int) -> list[int]:
    """The kernel is the products of vectors: the longest first, then what is longest beside the span of the chosen."""
    rests = [[w * x / math.hypot(*token) for x in token] for token, w in zip(tokens, weight, strict=True)]
    lengths = [math.hypot(*rest) for rest in rests]
    picks: list[int] = []
    for _ in range(count):
        best, most = -1, -1.0
        for number, rest in enumerate(rests):
            own = math.hypot(*rest)
            own = own if own > 1e-7 * lengths[number] else 0.0
            if number not in picks and own > most:
                best, most = number, own
        picks.append(best)
        if most > 0:
            along = [x / most for x in rests[best]]
            for rest in rests:
                share = sum(a * b for a, b in zip(rest, along, strict=True))
                rest[:] = [x - share * a for x, a in zip(rest, along, strict=True)]
    return picks


def drawn(total: int, width: int, joint: int, segments: int) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(total * 100 + width)
    return (
        torch.randn(total, width, generator=source, dtype=torch.float64),
        torch.randn(total, joint, generator=source, dtype=torch.float64),
        torch.randn(segments, joint, generator=source, dtype=torch.float64),
    )


@pytest.mark.parametrize(
    ("total", "width", "segments", "count"), [(9, 16, 1, 4), (17, 20, 3, 17), (8, 8, 2, 1), (1, 5, 1, 1), (25, 6, 2, 6)]
)
def test_agrees_with_loops(total: int, width: int, segments: int, count: int) -> None:
    tokens, image, text = drawn(total, width, 7, segments)
    expected = reference_relevance(image.tolist(), text.tolist())
    found = relevance(image, text)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    picks = reference_picks(tokens.tolist(), expected, count)
    assert greedy_map(kernel(tokens, found), count).tolist() == picks
    rows = keep(tokens, image, text, count)
    assert rows.home.tolist() == sorted(picks)
    assert torch.equal(rows.apply(tokens), tokens[sorted(picks)])


def test_the_least_alike_to_the_question_goes_first() -> None:
    image = torch.eye(3)
    assert greedy_map(kernel(torch.eye(3), relevance(image, torch.tensor([[3.0, 1.0, 2.0]]))), 3).tolist() == [1, 2, 0]


def test_equally_relevant_tokens_differ_by_likeness_alone() -> None:
    same = torch.ones(3, 2)
    assert relevance(same, same).tolist() == [1, 1, 1]
    tokens = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    assert keep(tokens, same, same, 2).home.tolist() == [0, 2]


def test_what_adds_nothing_goes_by_place() -> None:
    """Copies, and more tokens than directions."""
    tokens = torch.tensor([[0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert greedy_map(kernel(tokens, torch.ones(5)), 5).tolist() == [0, 1, 3, 2, 4]
    tokens, *_ = drawn(12, 3, 7, 1)
    weight = torch.linspace(0.1, 1, 12, dtype=torch.float64)
    picks = reference_picks(tokens.tolist(), weight.tolist(), 12)
    assert greedy_map(kernel(tokens, weight), 12).tolist() == picks
    assert picks[3:] == sorted(picks[3:])


def test_half_precision_selects_as_its_values_in_float32() -> None:
    tokens, image, text = (given.half() for given in drawn(31, 24, 9, 2))
    found = keep(tokens, image, text, 11).home
    assert torch.equal(found, keep(tokens.float(), image.float(), text.float(), 11).home)
    assert relevance(image, text).dtype == torch.float32


@pytest.mark.parametrize("count", [0, -1, 10])
def test_a_number_of_tokens_that_cannot_be(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} tokens to keep; allowed: 1 to 9"):
        keep(*drawn(9, 4, 7, 1), count)


def test_no_tokens_and_no_question() -> None:
    with pytest.raises(ValueError, match="0 image tokens"):
        relevance(torch.zeros(0, 4), torch.ones(1, 4))
    with pytest.raises(ValueError, match="0 text segments"):
        relevance(torch.ones(3, 4), torch.zeros(0, 4))
