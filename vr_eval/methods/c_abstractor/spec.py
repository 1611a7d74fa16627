"""CAbstractor: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.options import ProjectorOptions, Shape
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class CAbstractorOptions(ProjectorOptions):
    """Convolution blocks, average pooling, convolution blocks, then an MLP."""

    depth: int = described(3, "blocks before and after the pooling", source="official code", minimum=1, maximum=16)
    mlp_depth: int = described(2, "linear layers of the MLP", source="official code", minimum=1, maximum=8)
    width: int | None = described(
        None,
        "channels of the blocks",
        source="official code",
        minimum=1,
        default_note="the tower's width (1024 for CLIP-L, as official)",
    )

    def resolve(self, shape: Shape) -> CAbstractorOptions:
        return dataclasses.replace(self, width=self.width or shape.tower_width)


SPEC = MethodSpec(
    name="c_abstractor",
    options=CAbstractorOptions,
    version=1,
    summary="convolution blocks, average pooling, convolution blocks, then an MLP",
    source="Honeybee, arXiv 2312.06742",
    link="https://arxiv.org/abs/2312.06742",
    details=(
        ("official code", "learned positions, RegNet stages of timm with squeeze-and-excitation, SiLU in the MLP"),
        ("ours", "the selected tower layer instead of the last; the tower's width"),
    ),
    module="vr_eval.methods.c_abstractor.module",
    cls="CAbstractor",
)
