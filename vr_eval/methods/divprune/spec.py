"""DivPrune: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.options import ReductionOptions
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class DivPruneOptions(ReductionOptions):
    """Projected tokens that are far from each other; no attention and no instruction is asked for."""

    keep_ratio: float = described(
        0.098, "part of each image's vision tokens that stays", source="official code", above=0, maximum=1
    )
    positions: str = described(
        "renumbered",
        "what stays is numbered without gaps, or keeps its position ids (original)",
        source="official code",
        choices=("renumbered", "original"),
    )

    def places(self) -> tuple[int, ...]:
        return (0,)


SPEC = MethodSpec(
    name="divprune",
    options=DivPruneOptions,
    version=1,
    summary="keeps vision tokens that are far from each other",
    source="DivPrune, arXiv 2503.02175",
    link="https://arxiv.org/abs/2503.02175",
    details=(
        ("paper", "greedily the token whose nearest chosen one is farthest; distance: 1 - cosine"),
        ("official code", "tokens behind the projector; those of all tiles of an image together, newlines among them"),
        ("ours", "how many: rounded half up, at least 1 of each image"),
    ),
    module="vr_eval.methods.divprune.module",
    cls="DivPrune",
    trainable=False,
)
