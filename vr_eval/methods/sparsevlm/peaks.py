"""Clusters by density peaks, as SparseVLM (arXiv 2410.04417) forms them of the tokens that it merges."""

from __future__ import annotations

import torch
from torch import Tensor

from vr_eval.layers.precision import precise


def clusters(tokens: Tensor, count: int, *, break_ties: bool = True) -> Tensor:
    """Clusters by density peaks: the centres are dense and far from all that is denser (official code).

    Density: ``exp(-mean of the squared distances to the nearest)``, as many of them as there are clusters, the token
    itself among them; distance: Euclidean, over sqrt(C). The densest is as far as any two are. Every other token
    belongs to its nearest centre.

    Args:
        tokens: ``(M, C)``.
        count: of clusters, 1 to M.
        break_ties: of equally dense tokens the earlier is denser (ours, for the code's noise up to 1e-6); False: none
            is. It matters for 2 clusters: the two that are nearest to each other are always equally dense then, and
            both become centres unless the tie is broken.

    Returns:
        ``(M,)`` int64, from 0: the cluster of each, the strongest centre's first.

    Raises:
        ValueError: `count` is not from 1 to M.
    """
    if not 1 <= count <= len(tokens):
        raise ValueError(f"{count} clusters; allowed: 1 to {len(tokens)}")
    tokens = precise(tokens)
    apart = torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist") / tokens.shape[1] ** 0.5
    density = apart.sort(dim=1).values[:, :count].square().mean(dim=1).neg().exp()
    denser = density > density[:, None]  # (M, M): column j is denser than row i
    if break_ties:
        denser |= (density == density[:, None]) & torch.ones_like(denser).tril(-1)
    lonely = apart.masked_fill(~denser, torch.inf).amin(dim=1)
    lonely = torch.where(denser.any(dim=1), lonely, apart.max())
    centres = (lonely * density).sort(descending=True, stable=True).indices[:count]
    belongs = apart[:, centres].argmin(dim=1)
    belongs[centres] = torch.arange(count, device=belongs.device)
    return belongs
