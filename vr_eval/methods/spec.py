"""What a registry entry holds: what plans, lists and identities know of a method without importing it."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.fields import Source
from vr_eval.methods.options import Options, Seam


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
        trainable: Has parameters to train; a training-free method does not change a checkpoint.
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

    @property
    def seam(self) -> Seam:
        """Which seam of the model it fills."""
        return self.options.seam
