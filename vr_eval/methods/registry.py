"""Every method by name: the only way from a name in a grid file or a checkpoint to code.

A method's ``version`` is raised by hand whenever what it computes changes; it is part of a cell's identity, so that old
checkpoints and results are not mistaken for new ones, while a comment or a rename orphans nothing.
"""

from __future__ import annotations

from importlib import import_module

from vr_eval.methods.spec import MethodSpec, Seam, square_ratios, stride

__all__ = [
    "METHODS",
    "NONE",
    "MethodSpec",
    "Seam",
    "of_seam",
    "projectors",
    "prunings",
    "refusions",
    "square_ratios",
    "stride",
]

NONE = "none"
"""The name of an empty seam."""

_FOLDERS = (
    *("mlp", "avg_pool", "pixel_shuffle", "tokenpacker", "ldpv2", "resampler", "c_abstractor", "sva_connector"),
    *("vision_remember", "deepstack", "sva"),
    *("fastv", "random", "downsample"),
)
"""The methods of this package, a folder each, in the order of lists and messages."""


def _spec(folder: str) -> MethodSpec:
    spec: MethodSpec = import_module(f"vr_eval.methods.{folder}.spec").SPEC
    return spec


METHODS: dict[str, MethodSpec] = {folder: _spec(folder) for folder in _FOLDERS}


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
