"""PixelShuffle: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods import sizes
from vr_eval.methods.options import Options
from vr_eval.methods.spec import MethodSpec, square_ratios, square_tokens


@dataclass(frozen=True)
class PixelShuffleOptions(Options):
    """Each s x s cell of the features onto the channels, then an MLP."""

    depth: int = described(2, "linear layers of the MLP; 2 is mlp2x_gelu", source="official code", minimum=1, maximum=8)


SPEC = MethodSpec(
    name="pixel_shuffle",
    seam="projector",
    options=PixelShuffleOptions,
    version=1,
    summary="s x s cells onto the channels, then the MLP",
    source="InternVL 1.5, arXiv 2404.16821",
    link="https://arxiv.org/abs/2404.16821",
    details=(("official code", "LayerNorm on the widened channels, Linear, GELU, Linear"),),
    module="vr_eval.methods.pixel_shuffle.module",
    cls="PixelShuffle",
    tokens=square_tokens,
    ratios=square_ratios,
    parameters=sizes.pixel_shuffle,
    any_grid=True,
)
