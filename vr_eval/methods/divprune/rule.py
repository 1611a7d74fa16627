"""DivPrune (arXiv 2503.02175): tokens that are far from each other; needs no attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vr_eval.layers.precision import precise
from vr_eval.layers.rows import Rows

RATIO = 0.098
"""Share of the tokens that stay (official code)."""


def kept_count(total: int, ratio: float = RATIO) -> int:
    """How many of `total` tokens stay: int(round(ratio * total)), a half to the even number (official code).

    Raises:
        ValueError: none would, or more than there are.
    """
    count = round(ratio * total)
    if not 1 <= count <= total:
        raise ValueError(f"ratio {ratio} of {total} tokens is {count}; allowed: 1 to {total}")
    return count


def order(tokens: Tensor, count: int) -> Tensor:
    """The tokens as they are chosen: each has the farthest nearest token among those chosen before it.

    The distance is 1 - cosine. The first is the token whose nearest other one is farthest (paper, official code).

    Args:
        tokens: ``(N, C)``, behind the projector, all of one image; ties go to the earlier.

    Returns:
        ``(count,)`` int64.

    Raises:
        ValueError: `count` is not from 1 to N.
    """
    total = len(tokens)
    if not 1 <= count <= total:
        raise ValueError(f"{count} tokens to keep; allowed: 1 to {total}")
    unit = normalize(precise(tokens), dim=1)
    distance = 1 - unit @ unit.T
    nearest = distance.fill_diagonal_(torch.inf).amin(dim=1)
    distance.fill_diagonal_(-torch.inf)  # a chosen one is never chosen again, not even among copies of it
    chosen = [nearest.argmax(dim=0, keepdim=True)]
    nearest = distance[chosen[0]][0]
    for _ in range(count - 1):
        chosen.append(nearest.argmax(dim=0, keepdim=True))
        nearest = torch.minimum(nearest, distance[chosen[-1]][0])
    return torch.cat(chosen)


def keep(tokens: Tensor, count: int) -> Rows:
    """The tokens of `order`, ascending (official code); arguments and errors as it has them."""
    return Rows.of(order(tokens, count).sort().values)
