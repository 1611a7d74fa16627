"""AvgPool: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vr_eval.catalog.fields import described
from vr_eval.methods.options import ProjectorOptions
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class AvgPoolOptions(ProjectorOptions):
    """The mean over each s x s cell of the features, then an MLP."""

    any_grid: ClassVar[bool] = True
    patch_mlp: ClassVar[bool] = True

    depth: int = described(2, "linear layers of the MLP; 2 is mlp2x_gelu", minimum=1, maximum=8)


SPEC = MethodSpec(
    name="avg_pool",
    options=AvgPoolOptions,
    version=1,
    summary="the mean over s x s cells, then the MLP",
    source="the pooling of Vision Remember's figure 1b, arXiv 2506.03928",
    link="https://arxiv.org/abs/2506.03928",
    details=(("paper", "compression by pooling"), ("ours", "pooling before the MLP, not after it")),
    module="vr_eval.methods.avg_pool.module",
    cls="AvgPool",
)
