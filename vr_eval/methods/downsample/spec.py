"""Downsample: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.options import Fault, ImageOptions, Shape
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class DownsampleOptions(ImageOptions):
    """The whole image in fewer patches: no token is chosen, and none has to be."""

    factor: int = described(
        2, "s: the tower is given the image at 1/s of its side; must leave 2 or more patches a side, evenly", minimum=2
    )

    def patches(self, grid: int) -> int:
        return grid // self.factor

    def faults(self, shape: Shape) -> tuple[Fault, ...]:
        fitting = downsample_factors(shape.grid)
        if self.factor in fitting:
            return ()
        message = f"a factor of {self.factor} does not divide the {shape.grid}x{shape.grid} patch grid into 2x2 or more"
        return (Fault("factor", message, ", ".join(map(str, fitting)) or "none on this grid"),)


def downsample_factors(grid: int) -> tuple[int, ...]:
    """Factors that leave a whole patch grid of 2 x 2 or more of a G x G one, rising: (2, 3, 4, 6) for G = 12."""
    return tuple(s for s in range(2, grid // 2 + 1) if grid % s == 0)


SPEC = MethodSpec(
    name="downsample",
    options=DownsampleOptions,
    version=1,
    summary="the input image at 1/s of its side: the plain control for every way of saving vision tokens",
    source="a control (ours), beside FastV, arXiv 2403.06764",
    link="https://arxiv.org/abs/2403.06764",
    details=(
        ("ours", "antialiased bicubic on the processed image; 1/s**2 of the tokens from the first layer on"),
        ("ours", "the tower's position embeddings are interpolated as transformers does it (bicubic)"),
        ("ours", "with projectors that take any patch grid, and without refusion"),
    ),
    module="vr_eval.methods.downsample.module",
    cls="Downsample",
    trainable=False,
)
