"""From a model's configuration to the modules that fill its seams."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vr_eval.methods.base import Downsampling, Projector, Pruning, Refusion, Shapes
from vr_eval.methods.options import Options
from vr_eval.methods.registry import METHODS

if TYPE_CHECKING:
    from vr_eval.models.config import LVLMConfig


def build_projector(config: LVLMConfig) -> Projector:
    """Seam 1 of `config`. Raises KeyError for a name that the registry does not hold."""
    return _build(config.projector, config)


def build_refusion(config: LVLMConfig, projector: Projector) -> Refusion | None:
    """Seam 2 of `config`, which may share modules of seam 1; None where it is empty."""
    if config.refusion == "none":
        return None
    refusion: Refusion = _build(config.refusion, config)
    refusion.share(projector)
    return refusion


def build_pruning(config: LVLMConfig) -> Pruning | Downsampling | None:
    """Seam 3 of `config`; None where it is empty."""
    return None if config.pruning == "none" else _build(config.pruning, config)


def build_method(name: str, shapes: Shapes, options: Options) -> Any:
    """The module of one method. Raises KeyError for a name that the registry does not hold."""
    spec = METHODS[name]
    # Module and class come from our registry alone; a configuration file can only name an entry of it.
    return getattr(import_module(spec.module), spec.cls)(shapes, options)


def _build(name: str, config: LVLMConfig) -> Any:
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in config.options.get(name, {}).items()}
    return build_method(name, config.shapes, METHODS[name].options(**given))
