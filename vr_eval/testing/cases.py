"""Which compositions of methods are checked: all that the registry and the tiny backbone allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vr_eval.methods.options import Options, RefusionOptions
from vr_eval.methods.registry import (
    METHODS,
    NONE,
    image_methods,
    projector_options,
    projectors,
    prunings,
    refusions,
)
from vr_eval.methods.together import clashes
from vr_eval.models.lvlm import LVLM
from vr_eval.testing.tiny import GRID, NEXT, SHAPES, shapes, tiny_lvlm

_RATIOS = (4, 9)
"""A stride of 2 and one of 3, where a projector has them."""
_CARRIERS = 2
"""Projectors that a method of another seam is checked on, where not the whole registry is checked."""


@dataclass(frozen=True)
class Case:
    """Methods in the seams of a tiny model; `options` are those of the last of them that is there."""

    projector: str
    ratio: int
    refusion: str = NONE
    free: str = NONE
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        names = [name for name in (self.refusion, self.free) if name != NONE]
        given = [f"{name}={value}" for name, value in self.options.items()]
        return "-".join([self.projector, str(self.ratio), *names, *given])

    def model(self, *, tiled: bool = False) -> LVLM:
        """Its model, in eval mode; `tiled`: for images in tiles."""
        tiling = NEXT if tiled else None
        return tiny_lvlm(self.projector, self.ratio, self.refusion, self.free, tiling=tiling, **self.options)


def cases() -> list[Case]:
    """Every method of the registry: projectors alone, and with each method of another seam that they can carry."""
    return [
        *(case for name in projectors() for case in _alone(name)),
        *(case for name in _others() for case in cases_with(name)),
    ]


def cases_of(method: str, options: Mapping[str, Any] | None = None) -> list[Case]:
    """Those that show whether one method works, with these options in place of its defaults.

    Raises:
        ValueError: The method fits no projector on the tiny backbone with these options.
    """
    options = options or {}
    if METHODS[method].seam == "projector":
        found = list(_alone(method, options))
        # Options belong to one method of a case: with others, the projector's are its defaults.
        found += [case for name in _others() if not options for case in cases_with(name) if case.projector == method]
    else:
        found = list(cases_with(method, options))[:_CARRIERS]
    if not found:
        raise ValueError(
            f"{method} fits no projector on a {GRID}x{GRID} grid with {SHAPES.decoder_depth} decoder layers"
        )
    return found


def cases_with(name: str, options: Mapping[str, Any] | None = None) -> Iterator[Case]:
    """A method of another seam with every projector that can carry it, each at one ratio, which take turns."""
    given = METHODS[name].options(**(options or {}))
    seam = "refusion" if isinstance(given, RefusionOptions) else "free"
    for projector in projectors():
        ratio = next((ratio for ratio in _turned(projector) if _fits(name, given, projector, ratio)), None)
        if ratio is not None:
            yield Case(projector, ratio, **{seam: name}, options=options or {})


def one_each() -> list[tuple[str, int]]:
    """Every projector with a ratio; strides of 2 and 3 take turns."""
    return [(name, _turned(name)[0]) for name in projectors()]


def tried_ratios(projector: str) -> tuple[int, ...]:
    """The ratios that a projector is checked at: those with a stride of 2 and 3, or the first that it has."""
    able = projector_options(projector).ratios(GRID)
    return tuple(ratio for ratio in _RATIOS if ratio in able) or able[:1]


def _turned(projector: str) -> tuple[int, ...]:
    """Its ratios, beginning with another one for every second projector."""
    able = tried_ratios(projector)
    first = projectors().index(projector) % len(able)
    return able[first:] + able[:first]


def _others() -> tuple[str, ...]:
    return (*refusions(), *prunings(), *image_methods())


def _alone(projector: str, options: Mapping[str, Any] | None = None) -> Iterator[Case]:
    for ratio in tried_ratios(projector):
        if not _faults(METHODS[projector].options(**(options or {})), ratio):
            yield Case(projector, ratio, options=options or {})


def _fits(name: str, options: Options, projector: str, ratio: int) -> bool:
    """Whether a plan would take them together; and a window of refusion needs several cells to choose from."""
    if _faults(options, ratio):
        return False
    carrier = METHODS[projector].options()
    if any(clashes({projector: carrier, name: options.resolve(shapes(ratio))}, GRID, ratio)):
        return False
    return not isinstance(options, RefusionOptions) or ratio > 1 or options.needs_patch_mlp()


def _faults(options: Options, ratio: int) -> bool:
    sized = shapes(ratio)
    resolved = options.resolve(sized)
    return bool(resolved.faults(sized) or resolved.ratio_faults(sized, ratio))
