"""SparseVLM keeps and merges what the official code does, and what loops written from the definition find."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.methods.golden_cases import Case, parametrize
from vr_eval.methods.sparsevlm.peaks import clusters
from vr_eval.methods.sparsevlm.rule import COUNTS, raters, recycled, reduce, scores, stages


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "sparsevlm_case", "sparsevlm")


def test_golden_sparsevlm(sparsevlm_case: Case) -> None:
    meta, given = sparsevlm_case.meta, sparsevlm_case.outputs
    first, count, keep = meta["image_start"], meta["image_tokens"], meta["keep"]
    image = slice(first, first + count)
    start = given["hidden_at_start"].squeeze(0)
    asking = raters(start[image], start[first + count :])
    assert asking.tolist() == given["raters"].tolist()
    found = scores(given["attention"].squeeze(0)[:, first + count + asking, image])
    torch.testing.assert_close(found, given["score"].squeeze(0), atol=1e-5, rtol=1e-5)
    assert recycled(found, keep).tolist() == given["recycled"].tolist()
    tokens = given["hidden_after_layer"].squeeze(0)[image]
    rows = reduce(tokens, found, keep, break_ties=False)
    assert rows.home[:keep].tolist() == given["kept"].squeeze(0).nonzero().flatten().tolist()
    made = rows.apply(tokens)
    assert torch.equal(made[:keep], tokens[rows.home[:keep]])
    merged, expected = made[keep:], given["merged"].squeeze(0)
    if len(merged) == 2:
        # Without noise both centres tie, and torch.topk of the official code returns them in no stated order.
        nearest = (merged[:, None] - expected).abs().amax(dim=2).argmin(dim=0)
        assert sorted(nearest.tolist()) == [0, 1]
        merged = merged[nearest]
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-5)


def reference_raters(image: list[list[float]], text: list[list[float]]) -> list[int]:
    weight = [0.0] * len(text)
    for token in image:
        raised = [math.exp(sum(a * b for a, b in zip(token, word, strict=True))) for word in text]
        weight = [w + r / sum(raised) / len(image) for w, r in zip(weight, raised, strict=True)]
    return [n for n, w in enumerate(weight) if w > sum(weight) / len(weight)]


def reference_clusters(tokens: list[list[float]], count: int, break_ties: bool) -> list[list[int]]:
    apart = [[math.dist(one, other) / math.sqrt(len(one)) for other in tokens] for one in tokens]
    density = [math.exp(-sum(d * d for d in sorted(row)[:count]) / count) for row in apart]
    peaks = []
    for n, row in enumerate(apart):
        equal = [j for j in range(n) if density[j] == density[n]] if break_ties else []
        denser = [row[j] for j, other in enumerate(density) if other > density[n] or j in equal]
        peaks.append((min(denser) if denser else max(map(max, apart))) * density[n])
    centres = sorted(range(len(tokens)), key=lambda n: (-peaks[n], n))[:count]
    members: list[list[int]] = [[] for _ in centres]
    for n, row in enumerate(apart):
        nearest = min(range(count), key=lambda c: (row[centres[c]], c))
        members[centres.index(n) if n in centres else nearest].append(n)
    return members


def drawn(total: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(total * 100 + width + seed)
    return (
        torch.randn(total, width, generator=source, dtype=torch.float64),
        torch.randn(total, generator=source, dtype=torch.float64),
    )


@pytest.mark.parametrize(("images", "words"), [(9, 5), (4, 11), (1, 2), (7, 3)])
def test_raters_agree_with_loops(images: int, words: int) -> None:
    image, text = drawn(images, 6)[0], drawn(words, 6, seed=1)[0]
    assert raters(image, text).tolist() == reference_raters(image.tolist(), text.tolist())


def test_where_no_text_stands_out_all_of_it_rates() -> None:
    assert raters(torch.ones(3, 2), torch.ones(1, 2)).tolist() == [0]
    assert raters(torch.ones(3, 2), torch.ones(4, 2)).tolist() == [0, 1, 2, 3]


def test_scores_are_means_over_heads_and_raters() -> None:
    attention = drawn(30, 1)[0].view(2, 3, 5)
    found = scores(attention)
    for column in range(5):
        cells = [attention[head, row, column].item() for head in range(2) for row in range(3)]
        assert found[column].item() == pytest.approx(sum(cells) / 6)


@pytest.mark.parametrize(
    ("total", "width", "count"),
    [(64, 10, 20), (121, 7, 30), (35, 5, 4), (25, 6, 25), (25, 6, 24), (25, 6, 1), (1, 4, 1)],
)
@pytest.mark.parametrize("break_ties", [True, False])
def test_agrees_with_loops(total: int, width: int, count: int, break_ties: bool) -> None:
    tokens, score = drawn(total, width)
    ranked = sorted(range(total), key=lambda n: (-score[n].item(), n))
    kept, dropped = sorted(ranked[:count]), ranked[count:]
    more = dropped[: int(0.3 * len(dropped)) + 1]
    assert recycled(score, count).tolist() == more
    rows = reduce(tokens, score, count, break_ties=break_ties)
    assert rows.home[:count].tolist() == kept
    members = reference_clusters(tokens[more].tolist(), len(more) // 10 + 1, break_ties) if more else []
    assert len(rows) == count + len(members)
    made = rows.apply(tokens)
    for n, cluster in enumerate(members, start=count):
        assert rows.home[n] == more[min(cluster)]
        mean = sum(tokens[more[member]] for member in cluster) / len(cluster)
        torch.testing.assert_close(made[n], mean)
    assert torch.equal(made[:count], tokens[kept])
    assert torch.equal(reduce(tokens, score, count, recycle=False).home, torch.tensor(kept))


def test_ties_go_to_the_earlier_token() -> None:
    score = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    tokens = torch.arange(6.0)[:, None]
    rows = reduce(tokens, score, 3)
    assert rows.home.tolist() == [0, 1, 3, 2]
    assert recycled(score, 1).tolist() == [3, 0]
    assert clusters(torch.ones(5, 3), 3).tolist() == [0, 1, 2, 0, 0]


def test_the_closest_pair_makes_one_of_two_clusters() -> None:
    places = torch.tensor([[0.0], [1.0], [9.0], [10.5]])
    assert clusters(places, 2).tolist() == [0, 0, 1, 1]
    assert clusters(places, 2, break_ties=False).tolist() == [0, 1, 1, 1]


def test_clusters_that_stand_apart_are_found() -> None:
    around = drawn(24, 4)[0] * 0.01
    groups = torch.tensor([0, 1, 2] * 8)
    found = clusters(around + 3 * torch.eye(4, dtype=torch.float64)[groups], 3)
    assert [len(set(found[groups == group].tolist())) for group in range(3)] == [1, 1, 1]
    assert len(set(found.tolist())) == 3


def test_half_precision_selects_as_its_values_in_float32() -> None:
    tokens, score = (given.half() for given in drawn(101, 12))
    rows, precise = reduce(tokens, score, 17), reduce(tokens.float(), score.float(), 17)
    assert torch.equal(rows.home, precise.home)
    assert torch.equal(rows.dense(101), precise.dense(101))
    assert torch.equal(raters(tokens[:50], tokens[50:]), raters(tokens[:50].float(), tokens[50:].float()))
    assert scores(tokens[None]).dtype == torch.float32


def test_stages_of_the_released_lists() -> None:
    for version, lists in COUNTS.items():
        for budget, counts in lists.items():
            assert stages(budget, version) == tuple(zip((2, 6, 15), counts, strict=True))
    assert stages(64, total=2880) == ((2, 330), (6, 150), (15, 85))
    assert stages(192, total=144, layers=24) == ((2, 75), (5, 50), (11, 28))
    assert stages(64, total=4, layers=4) == ((0, 1), (1, 1), (2, 1))


def test_what_cannot_be_is_refused() -> None:
    for budget, version in ((100, 1), (192, 3)):
        with pytest.raises(ValueError, match=f"budget {budget}, version {version}; the budgets"):
            stages(budget, version)
    with pytest.raises(ValueError, match="3 layers are too few"):
        stages(192, layers=3)
    with pytest.raises(ValueError, match="0 image tokens"):
        stages(192, total=0)
    for image, text in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match=f"{image} image tokens and {text} text tokens"):
            raters(torch.ones(image, 2), torch.ones(text, 2))
    for shape in ((0, 2, 3), (2, 0, 3)):
        with pytest.raises(ValueError, match="at least one head and one rater"):
            scores(torch.ones(shape))
    tokens, score = drawn(9, 4)
    for count in (0, 10):
        with pytest.raises(ValueError, match=f"{count} of 9 tokens to keep by 9 scores; allowed: 1 to 9"):
            reduce(tokens, score, count)
    for count in (0, 10):
        with pytest.raises(ValueError, match=f"{count} clusters; allowed: 1 to 9"):
            clusters(tokens, count)
    with pytest.raises(ValueError, match="3 of 9 tokens to keep by 8 scores"):
        reduce(tokens, score[:8], 3)
