"""From a model's configuration to the modules that fill its seams."""

from __future__ import annotations

from importlib import import_module
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch

from vr_eval.methods.base import ImageMethod, Projector, Refusion, Shapes
from vr_eval.methods.options import Options, Shape
from vr_eval.methods.reduction import Reduction
from vr_eval.methods.registry import METHODS, NONE

if TYPE_CHECKING:
    from vr_eval.models.config import LVLMConfig


def build_projector(config: LVLMConfig) -> Projector:
    """Seam 1 of `config`. Raises KeyError for a name that the registry does not hold."""
    return _build(config.projector, config)


def build_refusion(config: LVLMConfig, projector: Projector) -> Refusion | None:
    """Seam 2 of `config`, which may share modules of seam 1; None where it is empty."""
    if config.refusion == NONE:
        return None
    refusion: Refusion = _build(config.refusion, config)
    refusion.share(projector)
    return refusion


def build_pruning(config: LVLMConfig) -> Reduction | None:
    """Seam 3 of `config`; None where it is empty."""
    return None if config.pruning == NONE else _build(config.pruning, config)


def build_image_method(config: LVLMConfig) -> ImageMethod | None:
    """Seam 0 of `config`; None where it is empty."""
    return None if config.image == NONE else _build(config.image, config)


def build_method(name: str, shapes: Shapes, options: Options) -> Any:
    """The module of one method. Raises KeyError for a name that the registry does not hold."""
    spec = METHODS[name]
    # Module and class come from our registry alone; a configuration file can only name an entry of it.
    return getattr(import_module(spec.module), spec.cls)(shapes, options)


def sketch(name: str, shape: Shape, ratio: int, options: Options) -> Any:
    """The module of one method as it would be built, on the meta device: sizes and counts, no weights."""
    shapes = Shapes(
        grid=shape.grid,
        tower_width=shape.tower_width,
        tower_depth=shape.tower_depth,
        select_layer=shape.select_layer,
        decoder_width=shape.decoder_width,
        decoder_depth=shape.decoder_depth,
        stride=isqrt(ratio),
    )
    with torch.device("meta"):
        return build_method(name, shapes, options)


def added_parameters(name: str, shape: Shape, ratio: int, options: Options) -> int:
    """Parameters that a method adds to a backbone, by itself: what it may share with another one counts as its own."""
    return sum(parameter.numel() for parameter in sketch(name, shape, ratio, options).parameters())


def computed_by(name: str, config: LVLMConfig) -> dict[str, Any]:
    """All that what a method of `config` computes hangs on, in plain values: version, file's hash and options.

    Raises KeyError for a name that the registry does not hold.
    """
    spec = METHODS[name]
    file = {"file": spec.file.hash} if spec.file is not None else {}
    return {"version": spec.version, **file, **config.options.get(name, {})}


def image_seam(config: LVLMConfig) -> str:
    """What the image seam makes of an image, by all that it hangs on; empty where the tower is given the image itself.

    Models whose towers are equal share features only where this is equal too, however many patches are left.
    """
    return "" if config.image == NONE else f"{config.image} {sorted(computed_by(config.image, config).items())}"


def _build(name: str, config: LVLMConfig) -> Any:
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in config.options.get(name, {}).items()}
    return build_method(name, config.shapes, METHODS[name].options(**given))
