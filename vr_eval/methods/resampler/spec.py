"""Resampler: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from vr_eval.catalog.fields import described
from vr_eval.methods.options import Fault, ProjectorOptions, Shape, head_faults
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class ResamplerOptions(ProjectorOptions):
    """Learned queries attend to all patches; the tokens do not stand over cells of the grid."""

    keeps_grid: ClassVar[bool] = False

    heads: int | None = described(
        None,
        "attention heads; must divide the decoder's width",
        source="official code",
        minimum=1,
        default_note="one per 128 channels of the decoder, at least 8 (the minimum is ours)",
    )

    def resolve(self, shape: Shape) -> ResamplerOptions:
        return dataclasses.replace(self, heads=self.heads or max(8, shape.decoder_width // 128))

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        if shape.decoder_width % 4:
            message = f"a decoder of width {shape.decoder_width} has no 2D sine-cosine positions"
            return (Fault("heads", message, "a decoder whose width is a multiple of 4"),)
        return head_faults(self.resolve(shape).heads or 1, shape.decoder_width, "the decoder's width")


SPEC = MethodSpec(
    name="resampler",
    options=ResamplerOptions,
    version=1,
    summary="learned queries attend to all patches",
    source="Qwen-VL, arXiv 2308.12966",
    link="https://arxiv.org/abs/2308.12966",
    details=(
        ("paper", "one cross-attention layer, learned queries, 2D sine-cosine positions on queries and keys"),
        (
            "official code",
            "norms, initialisation, keys' positions resized from the queries' grid, output projection",
        ),
        ("ours", "as many queries as the ratio leaves tokens (the official number is 256)"),
    ),
    module="vr_eval.methods.resampler.module",
    cls="Resampler",
)
