"""VisPruner (arXiv 2412.01818): some patches stay for the class token's attention, others for differing from the rest.

FasterVLM is the same with every patch kept for its attention.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vr_eval.layers.precision import precise
from vr_eval.layers.rows import Rows

DROPPED = 8
"""How many tokens go in one step of the search for diverse ones, at most (official code)."""


def diverse(features: Tensor, order: Tensor, count: int) -> Tensor:
    """What is left of `order` when tokens that resemble others are dropped, a few at a time.

    Each step takes the tokens at even places as a, those at odd places as b, and drops of a the `DROPPED` at most whose
    best cosine to b is largest. It goes on with the rest of a, by descending best cosine, and then b (official code).
    Of equal ones the earlier of a goes first. The official code fails on an odd number of tokens; here the last one
    goes to b (ours).

    Args:
        features: ``(N, C)``.
        order: ``(M,)`` int64, M of the N in descending attention.

    Returns:
        ``(count,)`` int64, in the order that the steps leave.

    Raises:
        ValueError: `count` is not from 0 to M.
    """
    if not 0 <= count <= len(order):
        raise ValueError(f"{count} diverse tokens; allowed: 0 to {len(order)}")
    if not count:
        return order[:0]
    unit = normalize(precise(features), dim=1)
    alike = unit @ unit.T
    while len(order) > count:
        half = len(order) // 2
        pairs = order[: 2 * half]
        a, b = pairs[0::2], torch.cat([pairs[1::2], order[2 * half :]])
        likest = alike[a[:, None], b].amax(dim=1).sort(descending=True, stable=True).indices
        order = torch.cat([a[likest[min(DROPPED, len(order) - count) :]], b])
    return order


def keep(features: Tensor, attention: Tensor, count: int, important_ratio: float = 0.5) -> Rows:
    """The patches of one image that stay, ascending: int(count * important_ratio) important ones, the others diverse.

    Args:
        features: ``(N, C)``, of the tower, before the projector.
        attention: ``(heads, N)``, the class token's, patches only; heads are averaged, ties go to the earlier patch.
        important_ratio: 0.5 where 128 tokens stay and 0.75 where 64 do (official code); 1 is FasterVLM.

    Raises:
        ValueError: `count` is not from 1 to N, the ratio not from 0 to 1, or there are not as many features.
    """
    total = attention.shape[1]
    if not 1 <= count <= total or len(features) != total:
        raise ValueError(f"{count} of {len(features)} tokens to keep by {total} scores; allowed: 1 to {total}")
    if not 0 <= important_ratio <= 1:
        raise ValueError(f"a share of {important_ratio} important tokens; allowed: 0 to 1")
    order = precise(attention).mean(dim=0).sort(descending=True, stable=True).indices
    important = int(count * important_ratio)
    kept = torch.cat([order[:important], diverse(features, order[important:], count - important)])
    return Rows.of(kept.sort().values)
