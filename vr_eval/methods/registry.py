"""Every method by name: the only way from a name in a grid file or a checkpoint to code.

A method's ``version`` is raised by hand whenever what it computes changes; it is part of a cell's identity, so that old
checkpoints and results are not mistaken for new ones, while a comment or a rename orphans nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

from vr_eval.config.fields import Source
from vr_eval.methods.options import (
    AvgPoolOptions,
    FastVOptions,
    MLPOptions,
    Options,
    PixelShuffleOptions,
    RandomOptions,
    TokenPackerOptions,
    VisionRememberOptions,
)

Seam = Literal["projector", "refusion", "pruning"]

NONE = "none"
"""The name of an empty seam."""


@dataclass(frozen=True)
class MethodSpec:
    """What plans, lists and identities need to know about a method without importing it.

    Attributes:
        name: Name in grid files.
        seam: Which seam of the model it fills.
        options: Frozen dataclass; its defaults are the method's.
        version: Raised by hand when what it computes changes.
        summary: One line for ``vr-eval list methods``.
        source: Publication, with its arXiv number.
        link: Address of the publication.
        details: Which rule comes from where, beyond the options' own sources.
        module: Module that holds the class.
        cls: Name of the class.
        tokens: ``(grid, ratio, options) -> vision tokens`` that the decoder sees per image.
        ratios: ``grid -> ratios`` that it can produce on a G x G patch grid.
        needs: Backbone features, keys of ``vr_eval.models.backbones.FEATURES``.
        keeps_grid: A projector whose tokens stand over s x s cells of the patch grid, in row-major order.
        needs_grid: ``options -> bool``: a refusion method that asks this of the projector.
        trainable: Has parameters to train; a training-free method does not change a checkpoint.
    """

    name: str
    seam: Seam
    options: type[Options]
    version: int
    summary: str
    source: str
    link: str
    details: tuple[tuple[Source, str], ...]
    module: str
    cls: str
    tokens: Callable[[int, int, Any], int]
    ratios: Callable[[int], tuple[int, ...]]
    needs: tuple[str, ...] = ()
    keeps_grid: bool = True
    needs_grid: Callable[[Any], bool] = lambda options: False
    trainable: bool = True


def stride(grid: int, ratio: int) -> int:
    """Linear compression s of a ratio r = s * s on a G x G patch grid.

    Raises:
        ValueError: ``ratio`` is no square, or s does not divide ``grid``.
    """
    s = isqrt(ratio) if ratio > 0 else 0
    if s * s != ratio or s == 0 or grid % s:
        raise ValueError(f"ratio 1/{ratio} does not divide a {grid}x{grid} patch grid into square cells")
    return s


def square_ratios(grid: int) -> tuple[int, ...]:
    """Ratios r = s * s whose s divides a G x G patch grid, rising: (1, 4, 9, 16, 36, 144) for G = 12."""
    return tuple(s * s for s in range(1, grid + 1) if grid % s == 0)


def _square_tokens(grid: int, ratio: int, options: Options) -> int:
    return (grid // stride(grid, ratio)) ** 2


def _unchanged_tokens(grid: int, ratio: int, options: Options) -> int:
    """Refusion changes no number of tokens: those of the projector, all of whose ratios are square."""
    return _square_tokens(grid, ratio, options)


_SPECS = (
    MethodSpec(
        name="mlp",
        seam="projector",
        options=MLPOptions,
        version=1,
        summary="uncompressed: a two-layer MLP on every patch",
        source="LLaVA-1.5, arXiv 2310.03744",
        link="https://arxiv.org/abs/2310.03744",
        details=(("official code", "Linear, GELU, Linear on the selected tower layer"),),
        module="vr_eval.methods.mlp",
        cls="MLP",
        tokens=_square_tokens,
        ratios=lambda grid: (1,),
    ),
    MethodSpec(
        name="avg_pool",
        seam="projector",
        options=AvgPoolOptions,
        version=1,
        summary="the mean over s x s cells, then the MLP",
        source="the pooling of Vision Remember's figure 1b, arXiv 2506.03928",
        link="https://arxiv.org/abs/2506.03928",
        details=(("paper", "compression by pooling"), ("ours", "pooling before the MLP, not after it")),
        module="vr_eval.methods.mlp",
        cls="AvgPool",
        tokens=_square_tokens,
        ratios=square_ratios,
    ),
    MethodSpec(
        name="pixel_shuffle",
        seam="projector",
        options=PixelShuffleOptions,
        version=1,
        summary="s x s cells onto the channels, then the MLP",
        source="InternVL 1.5, arXiv 2404.16821",
        link="https://arxiv.org/abs/2404.16821",
        details=(("official code", "LayerNorm on the widened channels, Linear, GELU, Linear"),),
        module="vr_eval.methods.mlp",
        cls="PixelShuffle",
        tokens=_square_tokens,
        ratios=square_ratios,
    ),
    MethodSpec(
        name="tokenpacker",
        seam="projector",
        options=TokenPackerOptions,
        version=1,
        summary="pooled queries attend to the multi-level features of the cells under them",
        source="TokenPacker, arXiv 2407.02392",
        link="https://arxiv.org/abs/2407.02392",
        details=(
            ("official code", "all of the computation: norms, biases, initialisation, one attention per s x s window"),
            ("ours", "any tower width and number of levels (the official sizes are fixed); s = 1 and s > 4"),
        ),
        module="vr_eval.methods.tokenpacker",
        cls="TokenPacker",
        tokens=_square_tokens,
        ratios=square_ratios,
        needs=("tower_levels",),
    ),
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
        tokens=_unchanged_tokens,
        ratios=square_ratios,
        needs=("tower_levels", "decoder_layers"),
        needs_grid=lambda options: options.scope == "local",
    ),
)

_PRUNING = (
    MethodSpec(
        name="fastv",
        seam="pruning",
        options=FastVOptions,
        version=1,
        summary="keeps the vision tokens that a decoder layer attends to most",
        source="FastV, arXiv 2403.06764",
        link="https://arxiv.org/abs/2403.06764",
        details=(
            ("official code", "attention of layer K-1, mean over heads, last row; original positions; pruned at prefill"),
            ("ours", "a share of any number of image tokens, at any place of the prompt; batches; several images"),
        ),
        module="vr_eval.methods.pruning",
        cls="FastV",
        tokens=_unchanged_tokens,
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
        source="a control, ours",
        link="https://arxiv.org/abs/2403.06764",
        details=(("ours", "as many tokens, from the same layer, as fastv at the same keep_ratio"),),
        module="vr_eval.methods.pruning",
        cls="RandomPruning",
        tokens=_unchanged_tokens,
        ratios=square_ratios,
        needs=("decoder_layers",),
        trainable=False,
    ),
)

METHODS: dict[str, MethodSpec] = {spec.name: spec for spec in (*_SPECS, *_PRUNING)}


def of_seam(seam: Seam) -> tuple[str, ...]:
    """Names of the methods that fill ``seam``, in the registry's order."""
    return tuple(name for name, spec in METHODS.items() if spec.seam == seam)


def projectors() -> tuple[str, ...]:
    """Names of the projectors."""
    return of_seam("projector")


def refusions() -> tuple[str, ...]:
    """Names of the refusion methods, without ``none``."""
    return of_seam("refusion")


def prunings() -> tuple[str, ...]:
    """Names of the pruning methods, without ``none``."""
    return of_seam("pruning")
