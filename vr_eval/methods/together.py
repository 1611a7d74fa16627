"""What methods ask of each other: the one rule of what plans, `wrap` and the checks of every method put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from vr_eval.methods.options import ImageOptions, Options, ProjectorOptions, RefusionOptions
from vr_eval.methods.registry import projector_options, projectors

KindT = TypeVar("KindT", bound=Options)


@dataclass(frozen=True)
class Clash:
    """Methods of one model that do not go together."""

    key: str
    """The seam, or ``METHOD.OPTION``, that could be changed."""
    message: str
    allowed: str | None = None


def clashes(methods: Mapping[str, Options], grid: int, ratio: int) -> Iterator[Clash]:
    """What keeps methods of different seams from one model.

    Args:
        methods: Their resolved options, by name; at most one of a seam, and a projector.
        grid: G of the backbone.
        ratio: r of the compression ratio 1/r.

    Raises:
        KeyError: There is no projector.
    """
    found = _of(methods, ProjectorOptions)
    if found is None:
        raise KeyError("a model has a projector")
    carrier, projector = found
    refusion, image = _of(methods, RefusionOptions), _of(methods, ImageOptions)
    if refusion is not None:
        yield from _carried(*refusion, carrier, projector)
    if image is not None:
        name, left = image[0], image[1].patches(grid)
        if refusion is not None:
            yield _other_image(name, refusion[0], grid, left)
        if left != grid:
            yield from _smaller(name, carrier, projector, grid, left, ratio)


def _carried(name: str, refusion: RefusionOptions, carrier: str, projector: ProjectorOptions) -> Iterator[Clash]:
    """What a refusion method needs of the projector."""
    if refusion.needs_grid() and not projector.keeps_grid:
        message = f"{name} needs tokens that stand over the patch grid, which {carrier} does not keep"
        yield Clash("refusion", message)
    if refusion.needs_patch_mlp() and not projector.patch_mlp:
        message = f"{name} would share an MLP on single patches, which {carrier} does not have"
        yield Clash(f"{name}.shared", message, f"{name}.shared: false")


def _other_image(name: str, refusion: str, grid: int, left: int) -> Clash:
    """A refusion method reads what the tower makes of the image that was given, and of crops of it."""
    message = f"{name} leaves a {left}x{left} patch grid, but {refusion} looks again at the full {grid}x{grid} grid"
    if left == grid:
        message = f"{name} gives the tower another image, but {refusion} looks again at the one that there was"
    return Clash("image", message, "refusion: none")


def _smaller(name: str, carrier: str, projector: ProjectorOptions, grid: int, left: int, ratio: int) -> Iterator[Clash]:
    """What fills the image seam may leave a smaller patch grid, which the projector has to take."""
    leaves = f"{name} leaves a {left}x{left} patch grid, but"
    if not projector.any_grid:
        fitting = ", ".join(other for other in projectors() if projector_options(other).any_grid)
        yield Clash("image", f"{leaves} {carrier} is made for the full {grid}x{grid} grid", f"projector: {fitting}")
    elif ratio not in projector.ratios(left):
        fitting = ", ".join(map(str, projector.ratios(left)))
        yield Clash("image", f"{leaves} a ratio of 1/{ratio} does not divide that", f"ratio: {fitting}")


def _of(methods: Mapping[str, Options], kind: type[KindT]) -> tuple[str, KindT] | None:
    return next(((name, options) for name, options in methods.items() if isinstance(options, kind)), None)
