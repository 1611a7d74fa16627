"""Every method by name: the only way from a name in a grid file or a checkpoint to code.

A method's ``version`` is raised by hand whenever what it computes changes; it is part of a cell's identity, so that old
checkpoints and results are not mistaken for new ones, while a comment or a rename orphans nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from vr_eval.errors import InputError, Problem
from vr_eval.methods.options import ProjectorOptions, Seam
from vr_eval.methods.spec import MethodSpec, spec_fault

__all__ = [
    "METHODS",
    "NONE",
    "PACKAGES",
    "MethodSpec",
    "Seam",
    "image_methods",
    "of_seam",
    "projector_options",
    "projectors",
    "prunings",
    "refusions",
]

NONE = "none"
"""The name of an empty seam."""

GROUP = "vr_eval.methods"
"""Entry points under which other packages bring methods: ``my_method = "my_package.spec:SPEC"``."""

_FOLDERS = (
    *("mlp", "avg_pool", "pixel_shuffle", "tokenpacker", "ldpv2", "resampler", "c_abstractor", "sva_connector"),
    *("vision_remember", "deepstack", "sva"),
    *("fastv", "pyramiddrop", "divprune", "dart", "random", "uniform", "downsample"),
)
"""The methods of this package, a folder each, in the order of lists and messages."""


def _spec(folder: str) -> MethodSpec:
    spec: MethodSpec = import_module(f"vr_eval.methods.{folder}.spec").SPEC
    return spec


def _loaded(entry: EntryPoint, taken: Mapping[str, MethodSpec]) -> MethodSpec:
    """The method that an installed package brings.

    Raises:
        InputError: Its entry point cannot be loaded, is no method, or has a name that is taken.
    """
    package = _package(entry)
    try:
        spec = entry.load()
    except Exception as error:  # another package's code: anything can go wrong in it
        hint = f"Mend the package or remove it: pip uninstall {package.partition('==')[0]}"
        raise InputError(
            Problem(f"this method cannot be loaded: {error}", package, key=entry.name, hint=hint)
        ) from error
    if not isinstance(spec, MethodSpec) or spec.name != entry.name:
        message = f"the entry point {entry.value} is not the MethodSpec of a method of this name"
        raise InputError(Problem(message, package, key=entry.name))
    fault = spec_fault(spec)
    if fault is not None:
        raise InputError(Problem(fault, package, key=entry.name))
    if spec.name in taken or spec.name == NONE:
        raise InputError(Problem("the name of this method is taken", package, key=entry.name))
    return spec


def _package(entry: EntryPoint) -> str:
    """The package that an entry point stands in, as pip takes it."""
    return f"{entry.dist.name}=={entry.dist.version}" if entry.dist is not None else entry.value


METHODS: dict[str, MethodSpec] = {folder: _spec(folder) for folder in _FOLDERS}
PACKAGES: dict[str, str] = {}
"""The package of each method that another package brings, as pip takes it: ``my-method==1.0``."""

for _entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
    METHODS[_entry.name] = _loaded(_entry, METHODS)
    PACKAGES[_entry.name] = _package(_entry)


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


def image_methods() -> tuple[str, ...]:
    """Names of the methods that fill the image seam, without ``none``."""
    return of_seam("image")


def projector_options(name: str) -> type[ProjectorOptions]:
    """What is known of the projector `name` whatever it is told. Raises KeyError where there is none."""
    options = METHODS[name].options
    if not issubclass(options, ProjectorOptions):
        raise KeyError(f"{name} is no projector")
    return options
