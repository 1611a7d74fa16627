"""CDPruner (arXiv 2506.10967): image tokens that differ from each other and matter for the question.

A determinantal point process over the tokens of one image; its most likely set is built greedily. Reads the question.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vr_eval.layers.precision import precise
from vr_eval.layers.rows import Rows

_LEAST = 1e-6
"""Added to every relevance, so that the least relevant token does not vanish from the kernel (official code)."""


def relevance(image: Tensor, text: Tensor) -> Tensor:
    """How much each image token matters for a question, from the joint space of an image and a text tower.

    *Minus* the cosine, mean over the segments of the question, then stretched to [0, 1] and 1e-6 added before the
    division (official code). The code stretches over a whole batch; here every image is stretched by itself (ours), as
    it was where numbers were published, one image at a time. Where all are equal every relevance is 1 (ours).

    Args:
        image: ``(N, D)``, the tokens of one image, of any length.
        text: ``(L, D)``, one vector for each segment of the question that the text tower can take.

    Returns:
        ``(N,)``, in float32 or float64.

    Raises:
        ValueError: there is no token, or no segment.
    """
    if not len(image) or not len(text):
        raise ValueError(f"{len(image)} image tokens and {len(text)} text segments were given; each must be at least 1")
    cosine = normalize(precise(image), dim=1) @ normalize(precise(text), dim=1).T
    away = -cosine.mean(dim=1)
    low, high = away.aminmax()
    return torch.where(high > low, (away - low + _LEAST) / (high - low), torch.ones_like(away))


def kernel(tokens: Tensor, weight: Tensor) -> Tensor:
    """``(N, N)``: the cosine of two tokens ``(N, C)`` times the relevance ``(N,)`` of both (paper, official code)."""
    unit = normalize(precise(tokens), dim=1)
    return weight[:, None] * (unit @ unit.T) * weight


def greedy_map(matrix: Tensor, count: int) -> Tensor:
    """The set of a determinantal point process that a greedy search finds, one Cholesky row for each pick.

    Every pick is the one that multiplies the determinant of the chosen by most: first the largest of the diagonal, then
    the largest rest of it. A rest within rounding of zero is zero (ours): where all that is left depends linearly on
    the chosen, the earliest goes first.

    Args:
        matrix: ``(N, N)``, symmetric, positive semidefinite.

    Returns:
        ``(count,)`` int64, in the order of picking.

    Raises:
        ValueError: `count` is not from 1 to N.
    """
    total = len(matrix)
    if not 1 <= count <= total:
        raise ValueError(f"{count} tokens to keep; allowed: 1 to {total}")
    matrix = precise(matrix)
    diagonal = matrix.diagonal()
    rounding = total * torch.finfo(matrix.dtype).eps * diagonal
    gain = diagonal.clone()
    factor = matrix.new_zeros(count, total)
    taken = torch.zeros_like(gain, dtype=torch.bool)
    picks = []
    for step in range(count):
        pick = gain.masked_fill(taken, -torch.inf).argmax(dim=0, keepdim=True)
        before = factor[:step]
        row = (matrix[pick] - before[:, pick].T @ before)[0] / gain[pick].sqrt()
        factor[step] = torch.where(gain[pick] > 0, row, 0)
        gain = gain - factor[step].square()
        gain = torch.where(gain > rounding, gain, 0)
        taken[pick] = True
        picks.append(pick)
    return torch.cat(picks)


def keep(tokens: Tensor, image: Tensor, text: Tensor, count: int) -> Rows:
    """The tokens of one image that stay, ascending.

    Args:
        tokens: ``(N, C)``, behind the projector.
        image: ``(N, D)``, the same tokens in the joint space of an image and a text tower.
        text: ``(L, D)``, the segments of the question there.

    Raises:
        ValueError: `count` is not from 1 to N, or there is no segment.
    """
    return Rows.of(greedy_map(kernel(tokens, relevance(image, text)), count).sort().values)
