"""DART: what it can be told, and what plans and lists know of it without its module."""

from __future__ import annotations

from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.methods.options import PruningOptions
from vr_eval.methods.spec import MethodSpec


@dataclass(frozen=True)
class DartOptions(PruningOptions):
    """Of tokens that resemble each other one stays; what no token attends to can stay too."""

    pivots: int = described(4, "tokens that all others are compared to, at most", minimum=1)


SPEC = MethodSpec(
    name="dart",
    options=DartOptions,
    version=1,
    summary="keeps vision tokens that are least like a few pivots",
    source="DART, arXiv 2502.11494",
    link="https://arxiv.org/abs/2502.11494",
    details=(
        ("paper", "pivots by the norm of their keys; of the others those least like them stay"),
        (
            "ours",
            "from the idea of the paper: which norm, how many pivots, the largest cosine as likeness, the layer",
        ),
        ("ours", "pivots are vision tokens of the image, and stay; original positions"),
    ),
    module="vr_eval.methods.dart.module",
    cls="Dart",
    trainable=False,
)
