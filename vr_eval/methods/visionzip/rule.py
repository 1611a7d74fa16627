"""VisionZip (arXiv 2412.04467): the patches that the class token looks at stay; the rest is merged into a few.

Tower, keys and features are those of one layer, the one before the last (official code).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vr_eval.layers.precision import precise
from vr_eval.layers.rows import Rows


def attention_received(attention: Tensor) -> Tensor:
    """``(heads, N)``: what each token gets on average of all, from ``(heads, N, N)``, rows of queries.

    It ranks where a tower has no class token.
    """
    return precise(attention).mean(dim=1)


def dominant_tokens(attention: Tensor, count: int, *, class_token: bool = True) -> Tensor:
    """``(count,)`` int64: the tokens that stay as they are, ascending; arguments and errors as `reduce` has them."""
    _check(attention, count, 0)
    first = int(class_token)
    score = precise(attention).sum(dim=0)[first:]
    best = score.sort(descending=True, stable=True).indices[: count - first]
    return torch.cat([best.new_zeros(first), best.sort().values + first])


def reduce(attention: Tensor, keys: Tensor, dominant: int, contextual: int, *, class_token: bool = True) -> Rows:
    """The class token, the dominant patches ascending, then the contextual tokens (official code).

    Of what is not dominant, every ``max(1, rest // contextual)``-th is a target, the first `contextual` of these; every
    other goes to the target whose key is most alike by cosine. A contextual token is its target **plus** the mean of
    what went to it, and its home is the target (ours).

    Args:
        attention: ``(heads, N + 1)``, the class token's row, itself first, then the patches; heads are summed.
            Without a class token ``(heads, N)``, what `attention_received` gives.
        keys: ``(N + 1, D)``, the layer's keys, mean over heads, in the same order; ``(N, D)`` without a class token.
        dominant: how many stay as they are, the class token among them.
        contextual: how many are made of the rest; 0 drops the rest (ours).
        class_token: whether the first token is one. False is for towers that have none: nothing is kept unasked.

    Returns:
        `dominant` + `contextual` rows over N + 1 columns, over N without a class token.

    Raises:
        ValueError: `dominant` is below 1, `contextual` below 0, both are more than there are tokens, or there are not
            as many keys.
    """
    total = attention.shape[1]
    _check(attention, dominant, contextual)
    if len(keys) != total:
        raise ValueError(f"{len(keys)} keys of {total} tokens; as many keys as tokens are needed")
    kept = dominant_tokens(attention, dominant, class_token=class_token)
    if not contextual:
        return Rows.of(kept)
    free = torch.ones(total, dtype=torch.bool, device=keys.device)
    free[kept] = False
    rest = free.nonzero().flatten()
    targets = rest[:: len(rest) // contextual][:contextual]
    free[targets] = False
    members = free.nonzero().flatten()
    unit = normalize(precise(keys), dim=1)
    belongs = (unit[members] @ unit[targets].T).argmax(dim=1)
    sizes = belongs.bincount().to(unit.dtype)
    home = torch.cat([kept, targets])
    return Rows(
        home=home,
        row=torch.cat([torch.arange(len(home), device=home.device), dominant + belongs]),
        column=torch.cat([home, members]),
        weight=torch.cat([sizes.new_ones(len(home)), 1 / sizes[belongs]]),
    )


def _check(attention: Tensor, dominant: int, contextual: int) -> None:
    total = attention.shape[1]
    if dominant < 1 or contextual < 0 or dominant + contextual > total:
        raise ValueError(
            f"{dominant} dominant and {contextual} contextual tokens; allowed: from 1, from 0, and up to {total} in all"
        )
