"""Registry entries of the pruning methods (seam 3)."""

from __future__ import annotations

from vr_eval.methods.options import DownsampleOptions, FastVOptions, RandomOptions, downsample_factors
from vr_eval.methods.specs.base import MethodSpec, square_ratios, square_tokens, unchanged_tokens

PRUNINGS = (
    MethodSpec(
        name="fastv",
        seam="pruning",
        options=FastVOptions,
        version=1,
        summary="keeps the vision tokens that a decoder layer attends to most",
        source="FastV, arXiv 2403.06764",
        link="https://arxiv.org/abs/2403.06764",
        details=(
            (
                "official code",
                "attention of layer K-1, mean over heads, last row; original positions; pruned at prefill",
            ),
            ("ours", "a share of any number of image tokens, at any place of the prompt; batches; several images"),
        ),
        module="vr_eval.methods.pruning",
        cls="FastV",
        tokens=unchanged_tokens,
        ratios=square_ratios,
        needs=("decoder_layers",),
        trainable=False,
    ),
    MethodSpec(
        name="random",
        seam="pruning",
        options=RandomOptions,
        version=1,
        summary="keeps vision tokens drawn at random: the control for fastv",
        source="a control (ours) for FastV, arXiv 2403.06764",
        link="https://arxiv.org/abs/2403.06764",
        details=(("ours", "as many tokens, from the same layer, as fastv at the same keep_ratio"),),
        module="vr_eval.methods.pruning",
        cls="RandomPruning",
        tokens=unchanged_tokens,
        ratios=square_ratios,
        needs=("decoder_layers",),
        trainable=False,
    ),
    MethodSpec(
        name="downsample",
        seam="pruning",
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
        module="vr_eval.methods.downsample",
        cls="Downsample",
        tokens=square_tokens,
        ratios=lambda grid: tuple(s * s for s in downsample_factors(grid)),
        needs=("image_sizes",),
        tower_grid=lambda grid, options: grid // int(options.factor),
        trainable=False,
    ),
)
