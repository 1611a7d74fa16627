"""Uniform: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.options import PruningOptions
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class UniformOptions(PruningOptions):
    """Tokens at even distances, whatever they show: what a choice of tokens is worth."""

    layer: int = described(0, "K: decoder layers from K on see only what is kept; 0: none sees the rest", minimum=0)
    keep_ratio: float = described(0.5, "part of each image's vision tokens that stays", above=0, maximum=1)
    positions: str = described(
        "original",
        "what stays keeps its position ids, or is numbered without gaps (renumbered)",
        choices=("original", "renumbered"),
    )


SPEC = MethodSpec(
    name="uniform",
    options=UniformOptions,
    version=1,
    summary="keeps every n-th vision token: the control that any choice of tokens has to beat",
    source="a control (ours), beside FastV, arXiv 2403.06764",
    link="https://arxiv.org/abs/2403.06764",
    details=(("ours", "the middle one of each of as many equal parts of the image's reading order as tokens stay"),),
    module="vr_eval.methods.uniform.module",
    cls="Uniform",
    trainable=False,
)
