"""What a registry entry holds: what plans, lists and identities know of a method without importing it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, fields

from vr_eval.catalog.fields import Source, checked
from vr_eval.methods.options import ImageOptions, Options, ProjectorOptions, ReductionOptions, RefusionOptions, Seam

NAME = "[a-z][a-z0-9_]{0,63}"
"""What a method may be called."""


@dataclass(frozen=True)
class MethodFile:
    """A Python file that brings methods, as it was read; equal files hold the same bytes."""

    path: str = field(compare=False)
    """Whole path."""
    content: bytes = field(repr=False)

    @property
    def hash(self) -> str:
        """SHA-256 of what it holds."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """A method of one seam; what it costs and asks for is its options' to say.

    Attributes:
        name: Name in grid files.
        options: Frozen dataclass of its seam (`methods.options`); its defaults are the method's.
        version: Raised by hand when what it computes changes.
        summary: One line for ``vr-eval list methods``.
        source: Publication, with its arXiv number.
        link: Address of the publication, if there is one.
        details: Which rule comes from where, beyond the options' own sources.
        module: Module that holds the class.
        cls: Name of the class.
        trainable: Whether a checkpoint holds it: projectors and refusion methods. What fills another seam is
            training-free and changes no checkpoint.
        file: The file that it stands in, where a grid names one; whoever loads the file sets it.
    """

    name: str
    options: type[Options]
    version: int
    summary: str
    source: str
    link: str = ""
    details: tuple[tuple[Source, str], ...] = ()
    module: str
    cls: str
    trainable: bool = True
    file: MethodFile | None = None

    @property
    def seam(self) -> Seam:
        """Which seam of the model it fills."""
        return self.options.seam


def spec_fault(spec: MethodSpec) -> str | None:
    """What keeps a method of someone else's from being registered, in words; None if nothing does."""
    if not isinstance(spec.name, str) or not re.fullmatch(NAME, spec.name):
        return "a method's name is small letters, digits and underscores, the first a letter; at most 64"
    seams = ProjectorOptions | RefusionOptions | ReductionOptions | ImageOptions
    if not (isinstance(spec.options, type) and issubclass(spec.options, seams)):
        return "its options are of no seam: derive them from ProjectorOptions or another"
    if "__dataclass_params__" not in vars(spec.options):
        return f"its options {spec.options.__name__} lack the decorator @dataclass(frozen=True)"
    trained = issubclass(spec.options, ProjectorOptions | RefusionOptions)
    if spec.trainable != trained:
        why = "is trained with its checkpoint" if trained else "holds no parameters, as its cells share a checkpoint"
        return f"what fills the seam {spec.options.seam} {why}; its trainable has to be {trained}"
    for kind, answer in ((ImageOptions, "patches"), (ReductionOptions, "places")):
        if issubclass(spec.options, kind) and getattr(spec.options, answer) is getattr(kind, answer):
            return f"its options {spec.options.__name__} lack {answer}(), which {kind.__name__} asks for"
    for option in fields(spec.options):
        if "info" not in option.metadata:
            return f"its option {option.name} does not explain itself: {option.name}: .. = described(default, help)"
        try:
            checked(spec.options, option.name, option.default)
        except (ValueError, NameError, TypeError) as error:
            return f"the default of its option {option.name} is not what it takes: {error}"
    return None
