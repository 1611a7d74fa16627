"""What a reduction leaves of N tokens: rows of a sparse matrix ``(K, N)``; choosing and merging are one thing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vr_eval.layers.precision import precise


@dataclass(frozen=True)
class Rows:
    """K tokens made of N: a row with a single 1 keeps a token, one with several weights merges some.

    The entries of a row stand in any order; no column occurs twice in it.
    """

    home: Tensor
    """``(K,)`` int64: the token in whose place each of the K stands, for its position and for pictures."""
    row: Tensor
    """``(E,)`` int64, of every entry that is not zero."""
    column: Tensor
    """``(E,)`` int64."""
    weight: Tensor | None = None
    """``(E,)`` float; None where all are 1."""

    @classmethod
    def of(cls, kept: Tensor) -> Rows:
        """The tokens at ``kept`` ``(K,)``, in that order, as they are."""
        return cls(kept, torch.arange(len(kept), device=kept.device), kept)

    def __len__(self) -> int:
        return len(self.home)

    @property
    def selects(self) -> bool:
        """Whether every row is the token at its home, as it is."""
        plain = self.weight is None and len(self.row) == len(self)
        return plain and torch.equal(self.column, self.home[self.row])

    def apply(self, tokens: Tensor) -> Tensor:
        """``(N, C)`` to ``(K, C)``; sums are made in float32, or in float64 of float64."""
        if self.selects:
            return tokens[self.home]
        entries = precise(tokens[self.column])
        if self.weight is not None:
            entries = entries * self.weight[:, None].to(entries)
        made = entries.new_zeros(len(self), tokens.shape[1]).index_add(0, self.row, entries)
        return made.to(tokens.dtype)

    def dense(self, total: int) -> Tensor:
        """The whole matrix ``(K, total)`` in float32, for tests and pictures."""
        weight = torch.ones(len(self.row), device=self.row.device) if self.weight is None else self.weight.float()
        return weight.new_zeros(len(self), total).index_put((self.row, self.column), weight)
