"""MLP: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods import sizes
from vr_eval.methods.options import Options
from vr_eval.methods.spec import MethodSpec, square_tokens


@dataclass(frozen=True)
class MLPOptions(Options):
    """Every patch becomes a vision token: Linear, then (GELU, Linear) ``depth - 1`` times."""

    depth: int = described(2, "linear layers; 2 is mlp2x_gelu", source="official code", minimum=1, maximum=8)


SPEC = MethodSpec(
    name="mlp",
    seam="projector",
    options=MLPOptions,
    version=1,
    summary="uncompressed: a two-layer MLP on every patch",
    source="LLaVA-1.5, arXiv 2310.03744",
    link="https://arxiv.org/abs/2310.03744",
    details=(("official code", "Linear, GELU, Linear on the selected tower layer"),),
    module="vr_eval.methods.mlp.module",
    cls="MLP",
    tokens=square_tokens,
    ratios=lambda grid: (1,),
    parameters=sizes.patch_mlp,
    patch_mlp=True,
    any_grid=True,
)
