"""LDPv2: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vr_eval.methods.options import ProjectorOptions
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class LDPv2Options(ProjectorOptions):
    """The MLP on every patch, average pooling, a depthwise convolution that adds positions: nothing to choose."""

    patch_mlp: ClassVar[bool] = True


SPEC = MethodSpec(
    name="ldpv2",
    options=LDPv2Options,
    version=1,
    summary="the MLP on every patch, average pooling, a depthwise convolution with residual",
    source="MobileVLM V2, arXiv 2402.03766",
    link="https://arxiv.org/abs/2402.03766",
    details=(
        ("official code", "Linear, GELU, Linear; adaptive average pooling; 3 x 3 depthwise convolution, residual"),
        ("ours", "any ratio (the official one is 24 x 24 to 12 x 12)"),
    ),
    module="vr_eval.methods.ldpv2.module",
    cls="LDPv2",
)
