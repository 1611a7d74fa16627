"""A cell: one configuration of methods on one backbone, with one seed. The unit that is trained and evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from vr_eval.catalog.backbones import BACKBONES, BackboneSpec
from vr_eval.catalog.frozen import FrozenDict
from vr_eval.catalog.recipe import Recipe
from vr_eval.methods.method_file import load_method_file
from vr_eval.methods.options import ImageOptions, Options, ProjectorOptions
from vr_eval.methods.registry import METHODS, NONE, MethodSpec, projector_options

SEAMS = ("projector", "refusion", "pruning", "image")
"""As rows name them: the one that every cell fills first."""


def filled(model: object) -> tuple[str, ...]:
    """The methods that stand in the seams of a cell, a record or a model's configuration, in the order of ``SEAMS``."""
    return tuple(name for seam in SEAMS if (name := getattr(model, seam)) != NONE)


@dataclass(frozen=True)
class Cell:
    """What is trained and evaluated as one; equal cells have equal results.

    Attributes:
        backbone: Name in ``BACKBONES``, or of a backbone that a grid file describes.
        projector: Name of the projector.
        ratio: r = s * s; the projector keeps 1/r of the patches as vision tokens.
        refusion: Name of the refusion method, or ``none``.
        pruning: Name of the pruning method, or ``none``.
        seed: Seed of initialisation, data order and evaluation.
        options: Method name to its options that differ from the default (what the default stands for on this backbone
            counts as the default). Frozen and sorted, whatever was passed.
        recipe: How it is trained.
        described: The backbone, if it is none of ``BACKBONES``.
        random_weights: Tower and decoder are drawn from a seed and nothing is trained: for shapes and speed only.
        image: Name of the method that fills the image seam, or ``none``.

    Raises:
        KeyError: The backbone or a method is not registered.
        ValueError: There are options for a method that the cell does not use.
    """

    backbone: str
    projector: str
    ratio: int
    refusion: str
    pruning: str
    seed: int
    options: Mapping[str, Mapping[str, object]]
    recipe: Recipe
    described: BackboneSpec | None = None
    random_weights: bool = False
    image: str = NONE

    def __post_init__(self) -> None:
        used = {method.name for method in self.methods}
        unused = sorted(set(self.options) - used)
        if unused:
            raise ValueError(f"options for {', '.join(unused)}, which this cell does not use")
        differing = {}
        for name in sorted(self.options):
            default = METHODS[name].options().resolve(self.spec)
            chosen = dataclasses.replace(METHODS[name].options(), **self.options[name]).resolve(self.spec)
            values = _changed(default, chosen)
            if values:
                differing[name] = FrozenDict(values)
        object.__setattr__(self, "options", FrozenDict(differing))

    def __getstate__(self) -> dict[str, Any]:
        """With the method files that its methods stand in, so that another process can read it."""
        files = tuple(method.file for method in self.methods if method.file is not None)
        return {**vars(self), "files": files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for file in state.pop("files"):
            load_method_file(file)
        vars(self).update(state)

    @property
    def spec(self) -> BackboneSpec:
        """The backbone."""
        return self.described or BACKBONES[self.backbone]

    @property
    def pretrained(self) -> bool:
        """Whether the backbone's checkpoint is this cell's already: nothing is put into it that would be trained."""
        spec = self.spec
        own = (self.projector, self.ratio) == (spec.own_projector, spec.own_ratio)
        new = not own or self.refusion != NONE or self.projector in self.options
        return spec.checkpoint is not None and not new and not self.random_weights

    @property
    def trained(self) -> bool:
        """Whether its checkpoint comes from training."""
        return not (self.pretrained or self.random_weights)

    @property
    def methods(self) -> tuple[MethodSpec, ...]:
        """The methods in its seams, in the order of ``SEAMS``, empty seams left out."""
        return tuple(METHODS[name] for name in filled(self))

    def resolved(self, method: str) -> Options:
        """All options of one of its methods, with every default resolved for this backbone."""
        return dataclasses.replace(METHODS[method].options(), **self.options.get(method, {})).resolve(self.spec)

    @property
    def grid(self) -> int:
        """Patches along one side that the vision tower sees: the backbone's G, or what the image seam leaves of it."""
        return (
            self.spec.grid
            if self.image == NONE
            else cast(ImageOptions, self.resolved(self.image)).patches(self.spec.grid)
        )

    @property
    def tokens(self) -> int:
        """Vision tokens per image that the decoder sees in its first layer."""
        return cast(ProjectorOptions, self.resolved(self.projector)).tokens(self.grid, self.ratio)

    @property
    def label(self) -> str:
        """The configuration for people, without the seed: ``tokenpacker 1/4 + vision_remember [scope=global]``."""
        label = self.projector
        if self.ratio != 1 or projector_options(self.projector).ratios(self.spec.grid) != (1,):
            label += f" 1/{self.ratio}"
        label += "".join(f" + {method.name}" for method in self.methods[1:])
        options = list(self._labelled_options())
        return f"{label} [{', '.join(options)}]" if options else label

    def row(self) -> dict[str, object]:
        """The cell as a row of a grid file, without the seed: seams, ratio and ``method.option`` keys, plain values."""
        row: dict[str, object] = {"projector": self.projector, "ratio": self.ratio}
        row |= {seam: getattr(self, seam) for seam in SEAMS[1:]}
        for method, options in self.options.items():
            for name, value in options.items():
                row[f"{method}.{name}"] = list(value) if isinstance(value, tuple) else value
        return row

    def _labelled_options(self) -> Iterator[str]:
        for method, options in self.options.items():
            for name, value in options.items():
                # Two methods of a cell may share the name of an option, e.g. `levels`.
                shared = sum(name in {f.name for f in dataclasses.fields(spec.options)} for spec in self.methods) > 1
                yield f"{method}.{name}={_shown(value)}" if shared else f"{name}={_shown(value)}"


def _changed(default: Options, chosen: Options) -> dict[str, Any]:
    names = sorted(f.name for f in dataclasses.fields(default))
    return {name: getattr(chosen, name) for name in names if getattr(chosen, name) != getattr(default, name)}


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
