"""RandomPruning: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.options import Fault, Options, Shape, layer_fault
from vr_eval.methods.spec import MethodSpec, square_ratios, unchanged_tokens


@dataclass(frozen=True)
class RandomOptions(Options):
    """As many vision tokens as FastV keeps, at random: what FastV's choice is worth."""

    layer: int = described(2, "K: decoder layers from K on see only what is kept", minimum=1)
    keep_ratio: float = described(0.5, "part of a sample's vision tokens that stays", above=0, maximum=1)
    seed: int = described(0, "seed of the draw, beside the sample's own content", minimum=0, maximum=2**32 - 1)

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        return layer_fault(self.layer, shape)


SPEC = MethodSpec(
    name="random",
    seam="pruning",
    options=RandomOptions,
    version=1,
    summary="keeps vision tokens drawn at random: the control for fastv",
    source="a control (ours) for FastV, arXiv 2403.06764",
    link="https://arxiv.org/abs/2403.06764",
    details=(("ours", "as many tokens, from the same layer, as fastv at the same keep_ratio"),),
    module="vr_eval.methods.random.module",
    cls="RandomPruning",
    tokens=unchanged_tokens,
    ratios=square_ratios,
    needs=("decoder_layers",),
    trainable=False,
)
