"""Registry entries of the refusion methods (seam 2)."""

from __future__ import annotations

from vr_eval.methods.options import DeepStackOptions, SVAOptions, VisionRememberOptions
from vr_eval.methods.specs import sizes
from vr_eval.methods.specs.base import MethodSpec, square_ratios, unchanged_tokens


def _last_of_deepstack(options: DeepStackOptions, ratio: int) -> int:
    if options.place == "tower":
        return -1  # over before the decoder begins
    return (options.start or 0) - 1 + (options.count(ratio) - 1) * options.interval


REFUSIONS = (
    MethodSpec(
        name="vision_remember",
        seam="refusion",
        options=VisionRememberOptions,
        version=1,
        summary="vision tokens look at the vision features again, between decoder layers",
        source="Vision Remember, arXiv 2506.03928",
        link="https://arxiv.org/abs/2506.03928",
        details=(
            (
                "paper",
                "between decoder layers: local cross-attention to the multi-level features under each token, then "
                "bidirectional self-attention among the vision tokens and a text-guided token",
            ),
            (
                "ours",
                "norms, sizes, the cells' embedding, insertion points, the guiding token, zero initialisation",
            ),
        ),
        module="vr_eval.methods.vision_remember",
        cls="VisionRemember",
        tokens=unchanged_tokens,
        ratios=square_ratios,
        parameters=sizes.vision_remember,
        needs=("tower_levels", "decoder_layers"),
        needs_grid=lambda options: options.scope == "local",
    ),
    MethodSpec(
        name="deepstack",
        seam="refusion",
        options=DeepStackOptions,
        version=1,
        summary="high-resolution tokens, sampled into stacks, are added before layers of the decoder or of the tower",
        source="DeepStack, arXiv 2406.04334",
        link="https://arxiv.org/abs/2406.04334",
        details=(
            ("paper", "stacks: grid, an equal-token comparison: visible tokens g x g, stacks from the full G x G grid"),
            ("official code", "2d sampling, row-major stacks, a plain sum without gate or norm, at prefill only"),
            (
                "official code",
                "stacks: crops: the image is resized by bicubic interpolation and cut, every crop goes through the "
                "same tower; as many stacks as crops",
            ),
            (
                "ours",
                "the same square of crops for every image, cut from the processed square image; that of a backbone "
                "whose images are no larger than its tower's, like micro, is enlarged, which adds no information",
            ),
            (
                "ours",
                "place: tower: stacks are hidden states of the crops at the layer before which the first is added; "
                "nothing is trained there, the tower stays frozen",
            ),
            ("ours", "crops over compressed tokens: s * s stacks a crop, before as many decoder layers"),
            ("ours", "an MLP of its own over the high-resolution cells, as a compressing projector has none to share"),
        ),
        module="vr_eval.methods.deepstack",
        cls="DeepStack",
        tokens=unchanged_tokens,
        ratios=square_ratios,
        parameters=sizes.deepstack,
        needs=("decoder_layers",),
        needs_grid=lambda options: options.place == "decoder",
        needs_patch_mlp=lambda options: bool(options.shared),
        last_layer=_last_of_deepstack,
    ),
    MethodSpec(
        name="sva",
        seam="refusion",
        options=SVAOptions,
        version=1,
        summary="vision tokens look at the cells under them, between decoder layers",
        source="Cambrian-1, arXiv 2406.16860",
        link="https://arxiv.org/abs/2406.16860",
        details=(
            ("official code", "all of the computation; with sva_connector both read one projection of the tower"),
            ("ours", "a projection of the tower of its own with any other projector; gradients that reach it on a GPU"),
        ),
        module="vr_eval.methods.sva",
        cls="SVA",
        tokens=unchanged_tokens,
        ratios=square_ratios,
        parameters=sizes.sva,
        needs=("tower_levels", "decoder_layers"),
        needs_grid=lambda options: True,
    ),
)
