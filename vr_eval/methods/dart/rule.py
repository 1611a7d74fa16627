"""DART (arXiv 2502.11494): of the image tokens that resemble each other one is enough.

From the paper's idea alone: a few pivots, chosen by the norm of their keys, and the tokens that are least like them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vr_eval.layers.precision import precise
from vr_eval.layers.rows import Rows


def keep(tokens: Tensor, keys: Tensor, count: int, pivots: int = 4) -> Rows:
    """The pivots of one image and the tokens least like any of them, ascending.

    Ours, where the facts are silent: pivots are image tokens, those with the largest Euclidean norm of their key, and
    stay themselves; how like a token is to them is its largest cosine with one; 4 of them, fewer where fewer stay. Ties
    go to the earlier token.

    Args:
        tokens: ``(N, C)``, hidden states in front of the decoder layer where they are reduced.
        keys: ``(N, D)``, that layer's keys, all heads side by side; rotary embeddings do not change their norm.
        count: how many stay, pivots among them.
        pivots: how many pivots at most.

    Raises:
        ValueError: `count` is not from 1 to N, `pivots` is below 1, or tokens and keys are not as many.
    """
    total = len(tokens)
    if len(keys) != total:
        raise ValueError(f"{total} tokens, but {len(keys)} keys")
    if not 1 <= count <= total:
        raise ValueError(f"{count} tokens to keep; allowed: 1 to {total}")
    if pivots < 1:
        raise ValueError(f"{pivots} pivots; at least 1 is needed")
    norms = precise(keys).norm(dim=1)
    first = norms.sort(descending=True, stable=True).indices[: min(pivots, count)]
    unit = normalize(precise(tokens), dim=1)
    alike = (unit @ unit[first].T).amax(dim=1)
    alike[first] = -torch.inf
    return Rows.of(alike.sort(stable=True).indices[:count].sort().values)
