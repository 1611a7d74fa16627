"""PruMerge and PruMerge+ (arXiv 2403.15388): patches that stand out for the class token take in those alike to them.

Queries and keys are those of the tower's last layer, its heads side by side as one vector (official code).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vr_eval.layers.precision import precise
from vr_eval.layers.rows import Rows

NEIGHBOURS = 32
"""How many tokens each kept one takes in (official code, where published numbers were made)."""


def class_attention(query: Tensor, keys: Tensor) -> Tensor:
    """``(N,)``: how much the class token looks at each patch; softmax over all tokens, itself among them.

    Args:
        query: ``(C,)``, of the class token.
        keys: ``(N + 1, C)``, class token first.
    """
    query, keys = precise(query), precise(keys)
    return (keys @ query / math.sqrt(len(query))).softmax(dim=0)[1:]


def outlier_share(attention: Tensor) -> float:
    """The share of N patches whose attention ``(N,)`` is above Q3 + 1.5 (Q3 - Q1), quartiles interpolated linearly.

    The official code takes the quartiles over a whole batch; here every image has its own (ours), as it had where
    numbers were published, one image at a time.
    """
    attention = precise(attention)
    low, high = attention.quantile(attention.new_tensor([0.25, 0.75]))
    return int((attention > high + 1.5 * (high - low)).sum()) / len(attention)


def kept_patches(attention: Tensor, ratio: float | None = None, *, plus: bool = False) -> Tensor:
    """The patches that stay: int(N * ratio) by descending attention, then for PruMerge+ those of an even grid.

    The grid is every int(int(1 / ratio) / 3)-th patch before the last that does not stay yet, ascending: the official
    code writes 575, for 576 patches. Ours: the last of any number N; a step of at least 1; the step of the share 1 / N
    where no patch stands out; the same grid for a fixed ratio.

    Args:
        attention: ``(N,)``; ties go to the earlier patch.
        ratio: the share that stays; None takes `outlier_share`, which may be 0 (official code).
        plus: PruMerge+.

    Returns:
        ``(K,)`` int64.

    Raises:
        ValueError: there is no patch, or the ratio is above 1 or leaves none.
    """
    total = len(attention)
    if not total:
        raise ValueError("0 patches were given; at least 1 is needed")
    if ratio is not None and not (ratio <= 1 and int(total * ratio) >= 1):
        raise ValueError(f"ratio {ratio} of {total} patches; allowed: above 0, up to 1, and so that at least 1 stays")
    share = outlier_share(attention) if ratio is None else ratio
    best = attention.sort(descending=True, stable=True).indices[: int(total * share)]
    if not plus:
        return best
    step = max(1, int(1 / (share or 1 / total)) // 3)
    grid = torch.arange(0, total - 1, step, device=best.device)
    return torch.cat([best, grid[~torch.isin(grid, best)]])


def reduce(
    attention: Tensor, keys: Tensor, ratio: float | None = None, *, plus: bool = False, neighbours: int = NEIGHBOURS
) -> Rows:
    """Each kept patch plus the attention-weighted sum of its neighbours, then one token of all that is not kept.

    Neighbours are the nearest by cosine of keys among *all* other patches, kept or not; nothing is normalised (official
    code). The last token is the attention-weighted sum of the unkept; its home is the highest-attended of them (ours).
    It is left out where every patch is kept (ours: it would be all zeros).

    Args:
        attention: ``(N,)``, what `class_attention` gives.
        keys: ``(N, C)``, of the patches.
        ratio: as `kept_patches` says, None for adaptive.
        plus: PruMerge+.
        neighbours: at most; fewer where there are not as many other patches (ours).

    Returns:
        K + 1 rows over N columns, in the order of `kept_patches`.

    Raises:
        ValueError: as `kept_patches`, `neighbours` is below 0, or there are not as many keys as patches.
    """
    total = len(attention)
    if neighbours < 0 or len(keys) != total:
        raise ValueError(f"{neighbours} neighbours, {len(keys)} keys of {total} patches; allowed: 0 or more, {total}")
    kept = kept_patches(attention, ratio, plus=plus)
    weight, unit = precise(attention), normalize(precise(keys), dim=1)
    alike = (unit[kept] @ unit.T).scatter(1, kept[:, None], -torch.inf)
    near = alike.sort(dim=1, descending=True, stable=True).indices[:, : min(neighbours, total - 1)]
    free = torch.ones(total, dtype=torch.bool, device=kept.device)
    free[kept] = False
    left = free.nonzero().flatten()
    extra = left[weight[left].argmax(dim=0, keepdim=True)] if len(left) else left
    own = torch.arange(len(kept), device=kept.device)
    taken = near.flatten()
    return Rows(
        home=torch.cat([kept, extra]),
        row=torch.cat([own, own.repeat_interleave(near.shape[1]), torch.full_like(left, len(kept))]),
        column=torch.cat([kept, taken, left]),
        weight=torch.cat([weight.new_ones(len(kept)), weight[taken], weight[left]]),
    )
