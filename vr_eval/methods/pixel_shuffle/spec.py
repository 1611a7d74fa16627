"""PixelShuffle: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vr_eval.catalog.fields import described
from vr_eval.methods.options import ProjectorOptions
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class PixelShuffleOptions(ProjectorOptions):
    """Each s x s cell of the features onto the channels, then an MLP."""

    any_grid: ClassVar[bool] = True

    depth: int = described(2, "linear layers of the MLP; 2 is mlp2x_gelu", source="official code", minimum=1, maximum=8)


SPEC = MethodSpec(
    name="pixel_shuffle",
    options=PixelShuffleOptions,
    version=1,
    summary="s x s cells onto the channels, then the MLP",
    source="InternVL 1.5, arXiv 2404.16821",
    link="https://arxiv.org/abs/2404.16821",
    details=(("official code", "LayerNorm on the widened channels, Linear, GELU, Linear"),),
    module="vr_eval.methods.pixel_shuffle.module",
    cls="PixelShuffle",
)
