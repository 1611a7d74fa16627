"""Every method by name: the only way from a name in a grid file or a checkpoint to code.

A method's ``version`` is raised by hand whenever what it computes changes; it is part of a cell's identity, so that old
checkpoints and results are not mistaken for new ones, while a comment or a rename orphans nothing.
"""

from __future__ import annotations

from vr_eval.methods.specs.base import MethodSpec, Seam, square_ratios, stride
from vr_eval.methods.specs.projectors import PROJECTORS
from vr_eval.methods.specs.pruning import PRUNINGS
from vr_eval.methods.specs.refusion import REFUSIONS

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

METHODS: dict[str, MethodSpec] = {spec.name: spec for spec in (*PROJECTORS, *REFUSIONS, *PRUNINGS)}


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
