"""VisionZip keeps and merges what the official code does, and what plain loops do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.methods.golden_cases import Case, parametrize
from vr_eval.methods.visionzip.rule import attention_received, dominant_tokens, reduce


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "visionzip_case", "visionzip")


def test_golden_visionzip(visionzip_case: Case) -> None:
    given, meta = visionzip_case.outputs, visionzip_case.meta
    dominant = meta["dominant_without_cls"] + 1
    for image, expected in enumerate(given["tokens"]):
        attention, keys = given["cls_attention"][image], given["keys"][image]
        kept = dominant_tokens(attention, dominant)
        assert kept.tolist() == sorted(given["dominant_indices"][image].tolist())
        rows = reduce(attention, keys, dominant, meta["contextual"])
        assert rows.home[:dominant].tolist() == kept.tolist()
        torch.testing.assert_close(rows.apply(given["hidden"][image]), expected, atol=1e-5, rtol=1e-5)


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def reference(
    attention: Tensor, keys: Tensor, dominant: int, contextual: int, class_token: bool
) -> tuple[list[int], list[list[float]]]:
    """Homes and the dense matrix, by loops over lists."""
    total = attention.shape[1]
    score = [sum(column) for column in attention.T.tolist()]
    forced = [0] if class_token else []
    ranked = sorted((n for n in range(total) if n not in forced), key=lambda n: (-score[n], n))
    kept = sorted(forced + ranked[: dominant - len(forced)])
    rest = [n for n in range(total) if n not in kept]
    step = max(1, len(rest) // contextual) if contextual else 1
    targets = [rest[place * step] for place in range(contextual)]
    groups: dict[int, list[int]] = {target: [] for target in targets}
    listed = keys.tolist()
    for token in rest if targets else []:
        if token not in groups:
            likeness = [cosine(listed[token], listed[target]) for target in targets]
            groups[targets[likeness.index(max(likeness))]].append(token)
    matrix = [[float(n == token) for n in range(total)] for token in kept + targets]
    for place, target in enumerate(targets):
        for token in groups[target]:
            matrix[dominant + place][token] = 1 / len(groups[target])
    return kept + targets, matrix


def drawn(tokens: int, heads: int = 3, width: int = 6) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(tokens * 10 + heads)
    return (
        torch.rand(heads, tokens, generator=source, dtype=torch.float64),
        torch.randn(tokens, width, generator=source, dtype=torch.float64),
    )


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize(
    ("total", "dominant", "contextual"),
    [(26, 6, 3), (37, 10, 7), (10, 1, 1), (17, 12, 5), (17, 17, 0), (9, 4, 0), (2, 1, 1), (1, 1, 0), (50, 5, 30)],
)
def test_agrees_with_loops(total: int, dominant: int, contextual: int, class_token: bool) -> None:
    attention, keys = drawn(total)
    homes, matrix = reference(attention, keys, dominant, contextual, class_token)
    rows = reduce(attention, keys, dominant, contextual, class_token=class_token)
    assert rows.home.tolist() == homes
    torch.testing.assert_close(rows.dense(total), torch.tensor(matrix))
    tokens = keys.flip(1)
    torch.testing.assert_close(rows.apply(tokens), torch.tensor(matrix, dtype=torch.float64) @ tokens)
    assert dominant_tokens(attention, dominant, class_token=class_token).tolist() == homes[:dominant]


def test_ties_go_to_the_earlier_token() -> None:
    attention, keys = torch.ones(2, 9), torch.eye(9)
    assert dominant_tokens(attention, 4).tolist() == [0, 1, 2, 3]
    rows = reduce(attention, keys, 3, 2)  # of 3 .. 8, the targets are 3 and 6, and nothing resembles anything
    assert rows.home.tolist() == [0, 1, 2, 3, 6]
    assert rows.dense(9)[3].tolist() == [0, 0, 0, 1, 0.25, 0.25, 0, 0.25, 0.25]
    assert rows.dense(9)[4].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0]


def test_the_class_token_stays_however_little_it_is_attended() -> None:
    attention = torch.tensor([[0.0, 1.0, 3.0, 2.0]])
    assert dominant_tokens(attention, 2).tolist() == [0, 2]
    assert dominant_tokens(attention, 2, class_token=False).tolist() == [2, 3]


def test_attention_received_is_the_mean_of_a_column() -> None:
    attention = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.2, 0.8], [0.0, 1.0]]])
    torch.testing.assert_close(attention_received(attention), torch.tensor([[0.7, 0.3], [0.1, 0.9]]))


def test_half_precision_selects_as_its_values_in_float32() -> None:
    attention, keys = (given.half() for given in drawn(65, heads=16))
    attention = attention / 64
    found = reduce(attention, keys, 12, 5)
    expected = reduce(attention.float(), keys.float(), 12, 5)
    assert torch.equal(found.home, expected.home)
    torch.testing.assert_close(found.dense(65), expected.dense(65), atol=0, rtol=0)


@pytest.mark.parametrize(("dominant", "contextual"), [(0, 3), (-1, 1), (4, -1), (7, 4), (11, 0)])
def test_numbers_of_tokens_that_cannot_be(dominant: int, contextual: int) -> None:
    attention, keys = drawn(10)
    with pytest.raises(ValueError, match=f"{dominant} dominant and {contextual} contextual tokens; .* up to 10 in all"):
        reduce(attention, keys, dominant, contextual)


def test_keys_of_other_tokens() -> None:
    attention, keys = drawn(10)
    with pytest.raises(ValueError, match="9 keys of 10 tokens"):
        reduce(attention, keys[1:], 4, 2)
