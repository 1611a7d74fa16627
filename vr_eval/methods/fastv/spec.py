"""FastV: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.options import PruningOptions
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class FastVOptions(PruningOptions):
    """The vision tokens that get the most attention in layer K - 1 go on from layer K."""

    layer: int = described(2, "K: decoder layers from K on see only what is kept", source="official code", minimum=1)
    query: str = described(
        "last",
        "whose attention ranks: the prompt's last row (the official code) or the mean of all rows (the paper's words)",
        source="official code",
        choices=("last", "mean"),
    )
    mode: str = described(
        "drop",
        "drop: later layers hold a shorter sequence and cache; mask: they hold all of it, for checks",
        source="official code",
        choices=("drop", "mask"),
    )


SPEC = MethodSpec(
    name="fastv",
    options=FastVOptions,
    version=1,
    summary="keeps the vision tokens that a decoder layer attends to most",
    source="FastV, arXiv 2403.06764",
    link="https://arxiv.org/abs/2403.06764",
    details=(
        (
            "official code",
            "attention of layer K-1, mean over heads, last row; original positions; pruned at prefill",
        ),
        ("ours", "a share of any number of image tokens, at any place of the prompt; batches; several images"),
    ),
    module="vr_eval.methods.fastv.module",
    cls="FastV",
    trainable=False,
)
