"""Seam 3: which vision tokens go on, as they are or merged, and what a method is handed to say so.

A method sees one sample at a time, without padding: what it leaves of a sample hangs on that sample alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vr_eval.layers.attention import attention_rows
from vr_eval.layers.rows import Rows


@dataclass(frozen=True)
class Asked:
    """Queries and keys of one decoder layer for the prompt of one sample, norms and positions applied."""

    query: Tensor
    """``(heads, P, d)``."""
    key: Tensor
    """``(groups, P, d)``; `groups` divides `heads`."""
    scaling: float
    """Factor of the scores."""

    def received(self, rows: Tensor) -> Tensor:
        """Attention that every position gets from the positions `rows` ``(R,)``, mean over heads and rows, ``(P,)``.

        Float32; each row's softmax is over the positions up to its own.
        """
        places = torch.arange(self.key.shape[1], device=rows.device)
        allowed = places <= rows[:, None]  # (R, P)
        weights = attention_rows(self.query[None, :, rows], self.key[None], self.scaling, allowed[None, None])
        return weights[0].mean((0, 1))


@dataclass(frozen=True)
class Sample:
    """The prompt of one sample in front of a decoder layer: P positions, N of them vision tokens.

    A prompt ends before the first supervised token. What earlier steps dropped is not in it.
    """

    hidden: Tensor
    """``(P, H)`` hidden states; in front of layer 0 these are embeddings and projected tokens."""
    vision: Tensor
    """``(P,)`` bool."""
    image: Tensor
    """``(N,)`` int64: of every vision token, the number of its image in the batch."""
    first: Tensor
    """``(N,)`` int64: how many vision tokens its image had before the first step."""
    ids: Tensor
    """Token ids of the whole prompt, as it was at first: what a draw is seeded by."""
    asked: Asked | None = None
    """Of the layer that the method asks for."""

    @property
    def tokens(self) -> Tensor:
        """Hidden states of the vision tokens, ``(N, H)``."""
        return self.hidden[self.vision]

    def last(self) -> Tensor:
        """The prompt's last position, ``(1,)``."""
        return torch.tensor([len(self.vision) - 1], device=self.vision.device)

    def all(self) -> Tensor:
        """Every position of the prompt, ``(P,)``."""
        return torch.arange(len(self.vision), device=self.vision.device)


class Reduction(nn.Module):
    """Seam 3. Leaves fewer vision tokens to the decoder layers from some place on; it has no parameters."""

    places: tuple[int, ...]
    """In front of which decoder layers it acts, rising; 0: before the first, so that no layer sees what is dropped."""
    asks: str | None = None
    """Whose queries and keys it is handed: of the layer before (`previous`), or of the one that follows (`own`)."""
    positions: str = "original"
    """What stays keeps its position ids (`original`), or is numbered without gaps (`renumbered`)."""
    mode: str = "drop"
    """`drop`: later layers hold a shorter sequence. `mask`: they hold all of it and may not look at the rest."""

    def choose(self, step: int, sample: Sample) -> Rows:
        """What stays at place number `step`: rows over the N vision tokens, one or more of them.

        Within an image they follow one another in their own order; the places that they fill are their homes.
        """
        raise NotImplementedError


def by_image(sample: Sample, choose: Callable[[Tensor], Rows]) -> Rows:
    """What `choose` leaves of each image of a sample, one after the other.

    `choose` is handed the places ``(n,)`` of the image's tokens among the N, and answers with rows over these n.
    """
    parts, count = [], 0
    for image in sample.image.unique_consecutive():
        places = (sample.image == image).nonzero().flatten()
        rows = choose(places)
        weight = torch.ones_like(rows.row, dtype=torch.float32) if rows.weight is None else rows.weight
        parts.append((places[rows.home], rows.row + count, places[rows.column], weight))
        count += len(rows)
    home, row, column, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    return Rows(home, row, column, None if bool((weight == 1).all()) else weight)
