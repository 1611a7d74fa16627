"""MLP: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vr_eval.catalog.fields import described
from vr_eval.methods.options import ProjectorOptions
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class MLPOptions(ProjectorOptions):
    """Every patch becomes a vision token: Linear, then (GELU, Linear) ``depth - 1`` times."""

    any_grid: ClassVar[bool] = True
    patch_mlp: ClassVar[bool] = True

    depth: int = described(2, "linear layers; 2 is mlp2x_gelu", source="official code", minimum=1, maximum=8)

    @classmethod
    def ratios(cls, grid: int) -> tuple[int, ...]:
        return (1,)


SPEC = MethodSpec(
    name="mlp",
    options=MLPOptions,
    version=1,
    summary="uncompressed: a two-layer MLP on every patch",
    source="LLaVA-1.5, arXiv 2310.03744",
    link="https://arxiv.org/abs/2310.03744",
    details=(("official code", "Linear, GELU, Linear on the selected tower layer"),),
    module="vr_eval.methods.mlp.module",
    cls="MLP",
)
