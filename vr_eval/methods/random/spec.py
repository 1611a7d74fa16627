"""RandomPruning: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.options import PruningOptions
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class RandomOptions(PruningOptions):
    """As many vision tokens as FastV keeps, at random: what FastV's choice is worth."""

    seed: int = described(0, "seed of the draw, beside the sample's own content", minimum=0, maximum=2**32 - 1)


SPEC = MethodSpec(
    name="random",
    options=RandomOptions,
    version=1,
    summary="keeps vision tokens drawn at random: the control for fastv",
    source="a control (ours) for FastV, arXiv 2403.06764",
    link="https://arxiv.org/abs/2403.06764",
    details=(("ours", "as many tokens, from the same layer, as fastv at the same keep_ratio"),),
    module="vr_eval.methods.random.module",
    cls="RandomPruning",
    trainable=False,
)
