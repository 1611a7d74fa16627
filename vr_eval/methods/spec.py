"""What a registry entry holds, and the counts that most entries share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

from vr_eval.catalog.fields import Source
from vr_eval.methods.options import Options, Shape

Seam = Literal["projector", "refusion", "pruning"]


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """What plans, lists and identities need to know about a method without importing it.

    Attributes:
        name: Name in grid files.
        seam: Which seam of the model it fills.
        options: Frozen dataclass; its defaults are the method's.
        version: Raised by hand when what it computes changes.
        summary: One line for ``vr-eval list methods``.
        source: Publication, with its arXiv number.
        link: Address of the publication, if there is one.
        details: Which rule comes from where, beyond the options' own sources.
        module: Module that holds the class.
        cls: Name of the class.
        tokens: ``(grid, ratio, options) -> vision tokens`` that the decoder sees per image of G x G patches.
        ratios: ``grid -> ratios`` that it can produce on a G x G patch grid.
        needs: Backbone features, keys of ``vr_eval.catalog.backbones.FEATURES``.
        keeps_grid: A projector whose tokens stand over s x s cells of the patch grid, in row-major order.
        needs_grid: ``options -> bool``: a refusion method that asks this of the projector.
        any_grid: A projector that takes features of any G x G that its stride divides, whatever grid it was trained on.
        tower_grid: ``(grid, options) -> patches`` along one side that are left of G; a method that downsamples.
        patch_mlp: A projector with an MLP on single patches of the selected layer (``Projector.patch_mlp``).
        needs_patch_mlp: ``options -> bool``: a refusion method that would share it.
        last_layer: ``(resolved options, ratio) -> the decoder layer`` after which a refusion method acts last.
        trainable: Has parameters to train; a training-free method does not change a checkpoint.
        parameters: ``(shape, ratio, resolved options) -> parameters`` that it adds to the backbone.
        stages: In which stages of training its parameters learn (1: alone, 2: with the decoder).
    """

    name: str
    seam: Seam
    options: type[Options]
    version: int
    summary: str
    source: str
    link: str = ""
    details: tuple[tuple[Source, str], ...] = ()
    module: str
    cls: str
    tokens: Callable[[int, int, Any], int]
    ratios: Callable[[int], tuple[int, ...]]
    needs: tuple[str, ...] = ()
    keeps_grid: bool = True
    needs_grid: Callable[[Any], bool] = lambda options: False
    any_grid: bool = False
    tower_grid: Callable[[int, Any], int] = lambda grid, options: grid
    patch_mlp: bool = False
    needs_patch_mlp: Callable[[Any], bool] = lambda options: False
    last_layer: Callable[[Any, int], int] = lambda options, ratio: int(options.layers[-1])
    trainable: bool = True
    parameters: Callable[[Shape, int, Any], int] = lambda shape, ratio, options: 0
    stages: tuple[int, ...] = (1, 2)


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


def square_tokens(grid: int, ratio: int, options: Options) -> int:
    """Vision tokens of a projector that keeps 1/ratio of the patches."""
    return (grid // stride(grid, ratio)) ** 2


def unchanged_tokens(grid: int, ratio: int, options: Options) -> int:
    """Refusion changes no number of tokens: those of the projector, all of whose ratios are square."""
    return square_tokens(grid, ratio, options)
