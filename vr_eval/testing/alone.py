"""Checks of a method by itself: what it says about itself holds for the module that is built from it.

Each takes the method's entry in the registry and options in place of its defaults, and raises an AssertionError.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from vr_eval.catalog.backbones import MICRO
from vr_eval.catalog.fields import info_of
from vr_eval.catalog.recipe import Recipe
from vr_eval.config.cell import Cell
from vr_eval.config.identity import checkpoint_identity, digest, method_identities
from vr_eval.methods.base import ImageMethod, Projector, Refusion, VisionFeatures
from vr_eval.methods.options import ImageOptions, Options, ProjectorOptions, RefusionOptions
from vr_eval.methods.reduction import Reduction
from vr_eval.methods.registry import METHODS
from vr_eval.methods.spec import MethodSpec, spec_fault
from vr_eval.models.methods import added_parameters, build_method
from vr_eval.testing.cases import tried_ratios
from vr_eval.testing.require import require
from vr_eval.testing.tiny import GRID, SHAPES, shapes

BASES = {"image": ImageMethod, "projector": Projector, "refusion": Refusion, "pruning": Reduction}
"""What the class of a method derives from, by seam."""

Given = Mapping[str, Any]


def describes_itself(spec: MethodSpec, given: Given) -> None:
    """Its name can stand in a grid, and every option explains itself and has a default that it takes."""
    fault = spec_fault(spec)
    require(fault is None, str(fault))
    require(spec.version >= 1, f"its version is {spec.version}, not 1 or more")
    require(bool(spec.summary), "it has no summary")


def resolves(spec: MethodSpec, given: Given) -> None:
    """Resolving leaves no option open and changes nothing the second time; its defaults fit; options can be pickled."""
    options = spec.options(**given)
    for shape in (SHAPES, MICRO):
        resolved = options.resolve(shape)
        unset = [name for name, value in vars(resolved).items() if value is None]
        require(not unset, f"{', '.join(unset)} is still None after resolve")
        require(resolved.resolve(shape) == resolved, "resolving twice gives other options")
        require(resolved.faults(shape) == (), f"its options do not fit: {resolved.faults(shape)}")
    require(pickle.loads(pickle.dumps(options)) == options, "its options are others after pickling")


def is_of_its_seam(spec: MethodSpec, given: Given) -> None:
    """Its class is of the seam that its options are of."""
    for _, _, module in _built(spec, given):
        base = BASES[spec.seam]
        require(isinstance(module, base), f"{type(module).__name__} is no {base.__name__}, which fills {spec.seam}")


def counts_parameters(spec: MethodSpec, given: Given) -> None:
    """It has parameters where it is trainable and none elsewhere, and a checkpoint holds nothing else of it."""
    for ratio, options, module in _built(spec, given):
        held = {name: value.shape for name, value in module.named_parameters()}
        if not spec.trainable:
            require(not held, f"it says that it is not trainable, and has the parameters {', '.join(held)}")
        elif not given:
            require(bool(held), "it says that it is trainable, and has no parameters")
        computed = [name for name in module.state_dict() if name not in held]
        require(not computed, f"{', '.join(computed)} is no parameter: register_buffer(.., persistent=False)")
        planned = added_parameters(spec.name, SHAPES, ratio, options)
        require(planned == sum(map(math.prod, held.values())), f"on the meta device it has {planned} parameters")


def reads_what_it_names(spec: MethodSpec, given: Given) -> None:
    """It names the hidden states of the tower that it reads, and the decoder layers after which it acts, rising."""
    for _, options, module in _built(spec, given):
        levels = getattr(module, "levels", ())
        plain = [level for level in levels if isinstance(level, int)]
        require(all(0 <= level <= SHAPES.tower_depth for level in plain), f"the tower has no such levels: {plain}")
        if isinstance(module, Projector):
            require(bool(plain), "it reads no hidden state of the tower: levels is empty")
        if isinstance(options, RefusionOptions):
            layers = tuple(module.layers)
            require(layers == tuple(sorted(set(layers))), f"its layers do not rise: {layers}")


def makes_the_tokens_it_says(spec: MethodSpec, given: Given) -> None:
    """It makes as many tokens as its options say, each image by itself; a method of the image seam as many patches."""
    options = spec.options(**given)
    if isinstance(options, ProjectorOptions):
        for ratio in options.ratios(GRID):
            if not _fits(options, ratio):
                continue
            found = _projected(spec, options, ratio)
            said = options.tokens(GRID, ratio)
            require(
                found.shape == (3, said, SHAPES.decoder_width), f"1/{ratio}: {tuple(found.shape)}, not {said} tokens"
            )
    if isinstance(options, ImageOptions):
        patch = 4
        module = build_method(spec.name, SHAPES, options.resolve(SHAPES))
        found = module(torch.randn(3, 3, GRID * patch, GRID * patch))
        side = options.patches(GRID) * patch
        require(found.shape == (3, 3, side, side), f"images become {tuple(found.shape)}, not {side} pixels a side")


def every_choice_runs_or_is_refused(spec: MethodSpec, given: Given) -> None:
    """Every choice of an option, and its smallest value, is built (a projector also runs), or `faults` says why not."""
    for chosen in _variants(spec.options(**given)):
        ratio = tried_ratios(spec.name)[0] if spec.seam == "projector" else 4
        if not _fits(chosen, ratio):
            continue
        try:
            if spec.seam == "projector":
                _projected(spec, chosen, ratio)
            else:
                build_method(spec.name, shapes(ratio), chosen.resolve(shapes(ratio)))
        except Exception as error:
            raise AssertionError(f"{chosen} fits by its faults, and fails: {type(error).__name__}: {error}") from error


def is_identified(spec: MethodSpec, given: Given) -> None:
    """Its version and every option are part of a cell's identity; a default that is spelled out is none."""
    cell = _cell(spec, dict(given))
    spelled = dataclasses.asdict(cell.resolved(spec.name))
    require(_identity(_cell(spec, spelled)) == _identity(cell), "its defaults spelled out have another identity")
    for chosen in _variants(spec.options(**given)):
        if not chosen.resolve(MICRO).faults(MICRO) and chosen.resolve(MICRO) != cell.resolved(spec.name):
            other = _cell(spec, dataclasses.asdict(chosen))
            require(_identity(other) != _identity(cell), f"{chosen} has the identity of {cell.resolved(spec.name)}")
    before = _identity(cell)
    METHODS[spec.name] = dataclasses.replace(spec, version=spec.version + 1)
    try:
        require(_identity(cell) != before, "its version is no part of the identity")
    finally:
        METHODS[spec.name] = spec


ALONE = (
    *(describes_itself, resolves, is_of_its_seam, counts_parameters, reads_what_it_names, makes_the_tokens_it_says),
    *(every_choice_runs_or_is_refused, is_identified),
)
"""All checks of a method by itself, in the order in which they are run."""


def _built(spec: MethodSpec, given: Given) -> Iterator[tuple[int, Any, Any]]:
    """The ratios that it is checked at, with resolved options and the module made of them."""
    options = spec.options(**given)
    for ratio in tried_ratios(spec.name) if spec.seam == "projector" else (4,):
        sized = shapes(ratio)
        yield ratio, options.resolve(sized), build_method(spec.name, sized, options.resolve(sized))


def _projected(spec: MethodSpec, options: Options, ratio: int) -> torch.Tensor:
    """What a projector makes of random features of three images, which has to be the same one by one."""
    sized = shapes(ratio)
    module = build_method(spec.name, sized, options.resolve(sized)).eval()
    maps = torch.randn(3, GRID**2, len(module.levels), SHAPES.tower_width)
    with torch.no_grad():
        found: torch.Tensor = module(VisionFeatures(maps, module.levels))
        for image in range(3):
            alone = module(VisionFeatures(maps[image : image + 1], module.levels))
            torch.testing.assert_close(found[image : image + 1], alone, atol=1e-4, rtol=1e-4)
    return found


def _variants(options: Options) -> Iterator[Any]:
    """The same options with one of them changed: every choice, the other truth value, the smallest number."""
    for option in dataclasses.fields(options):
        info, value = info_of(option), getattr(options, option.name)
        others: list[Any] = list(info.choices)
        if isinstance(value, bool):
            others = [not value]
        elif isinstance(value, int) and info.minimum is not None:
            others = [int(info.minimum), value + 1]
        elif isinstance(value, float) and info.maximum is not None:
            others = [info.maximum, value / 2]
        for other in others:
            if other != value:
                yield dataclasses.replace(options, **{option.name: other})


def _fits(options: Options, ratio: int) -> bool:
    sized = shapes(ratio)
    resolved = options.resolve(sized)
    return not (resolved.faults(sized) or resolved.ratio_faults(sized, ratio))


def _cell(spec: MethodSpec, options: dict[str, Any]) -> Cell:
    """A cell on the embedded backbone with the method in its seam."""
    seams: dict[str, Any] = {"projector": "mlp", "refusion": "none", "pruning": "none", "image": "none"}
    seams[spec.seam] = spec.name
    ratio = tried_ratios(spec.name)[0] if spec.seam == "projector" else 1
    return Cell("micro", ratio=ratio, seed=0, options={spec.name: options}, recipe=Recipe(), **seams)


def _identity(cell: Cell) -> str:
    """Of all that its methods are part of: the checkpoint's and the result's."""
    return digest({"checkpoint": checkpoint_identity(cell), "methods": method_identities(cell, trainable=False)})
