"""SparseVLM (arXiv 2410.04417): the text tokens that concern the image say which image tokens stay in the decoder.

Version 1 of the released code merges part of the dropped ones into a few; version 2 merges none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vr_eval.layers.precision import precise
from vr_eval.layers.rows import Rows
from vr_eval.methods.sparsevlm.peaks import clusters

LAYERS = (2, 6, 15)
"""Of 32: where tokens go (official code)."""
COUNTS = {
    1: {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    2: {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
"""Version of the released code, budget, how many of 576 stay at each layer; the paper derives them from a rank."""
RECYCLED = 0.3
"""Share of the dropped tokens that version 1 merges (official code)."""


def stages(budget: int, version: int = 1, *, total: int = 576, layers: int = 32) -> tuple[tuple[int, int], ...]:
    """Where tokens go and how many of the image's own stay: ``(layer, count)`` for each stage.

    For 576 tokens and 32 layers as in the released code; others in proportion, rounded half up, at least 1 (ours).
    `budget` always names a list for 576 tokens.

    Raises:
        ValueError: no such version or budget, no token, or too few layers for as many stages.
    """
    if budget not in COUNTS.get(version, {}):
        known = {number: [*lists] for number, lists in COUNTS.items()}
        raise ValueError(f"budget {budget}, version {version}; the budgets of each version: {known}")
    if total < 1:
        raise ValueError(f"{total} image tokens; at least 1 is needed")
    places = [int(layer * layers / 32 + 0.5) for layer in LAYERS]
    if len(set(places)) < len(places):
        raise ValueError(f"{layers} layers are too few for {len(places)} stages")
    return tuple(
        (place, max(1, int(count * total / 576 + 0.5)))
        for place, count in zip(places, COUNTS[version][budget], strict=True)
    )


def raters(image: Tensor, text: Tensor) -> Tensor:
    """The text tokens that concern the image: above the mean in what image tokens would attend to among the text.

    Softmax over the text of the plain products, mean over the image (official code). All, where none is above (ours).

    Args:
        image: ``(N, H)``, input embeddings of the decoder.
        text: ``(T, H)``, those of the text behind the image.

    Returns:
        ``(R,)`` int64, ascending, R at least 1.

    Raises:
        ValueError: there is no image token or no text token.
    """
    if not len(image) or not len(text):
        raise ValueError(f"{len(image)} image tokens and {len(text)} text tokens; each must be at least 1")
    weight = (precise(image) @ precise(text).T).softmax(dim=1).mean(dim=0)
    above = weight > weight.mean()
    return (above | ~above.any()).nonzero().flatten()


def scores(attention: Tensor) -> Tensor:
    """``(N,)``: the mean over heads and raters of ``(heads, R, N)``, rows of the raters and columns of the image.

    The released code has logits there, not probabilities: a mean of either is taken as it is.

    Raises:
        ValueError: there is no head or no rater.
    """
    if not attention.shape[0] or not attention.shape[1]:
        raise ValueError(f"attention {tuple(attention.shape)}; at least one head and one rater are needed")
    return precise(attention).mean(dim=(0, 1))


def recycled(score: Tensor, count: int, share: float = RECYCLED) -> Tensor:
    """The tokens to merge, by descending score: of n dropped the best int(share * n) + 1 (official code).

    Args:
        score: ``(N,)``.
        count: how many stay.
    """
    dropped = score.sort(descending=True, stable=True).indices[count:]
    return dropped[: int(share * len(dropped)) + 1]


def reduce(tokens: Tensor, score: Tensor, count: int, *, recycle: bool = True, break_ties: bool = True) -> Rows:
    """What is left of one image: the highest scored, ascending, then plain means of clusters of the recycled.

    m recycled tokens make int(m / 10) + 1 clusters (official code). A mean's home is its highest scored member (ours).

    Args:
        tokens: ``(N, C)``, hidden states behind the layer whose attention was scored; they are clustered.
        score: ``(N,)``; ties go to the earlier token.
        recycle: merge (version 1) or not (version 2).
        break_ties: as `clusters` says.

    Raises:
        ValueError: `count` is not from 1 to N, or there are not as many tokens as scores.
    """
    total = len(score)
    if not 1 <= count <= total or len(tokens) != total:
        raise ValueError(f"{count} of {len(tokens)} tokens to keep by {total} scores; allowed: 1 to {total}")
    kept = score.sort(descending=True, stable=True).indices[:count].sort().values
    more = recycled(score, count)
    if not recycle or not len(more):
        return Rows.of(kept)
    number = len(more) // 10 + 1
    belongs = clusters(tokens[more], number, break_ties=break_ties)
    sizes = belongs.bincount(minlength=number).to(precise(tokens).dtype)
    best = (belongs == torch.arange(number, device=belongs.device)[:, None]).int().argmax(dim=1)
    row = torch.cat([torch.arange(count, device=kept.device), count + belongs])
    weight = torch.cat([sizes.new_ones(count), 1 / sizes[belongs]])
    return Rows(torch.cat([kept, more[best]]), row, torch.cat([kept, more]), weight)
