"""The registered backbones and the official tasks, from the registries."""

from __future__ import annotations

from gen.markdown import block, code, table
from vr_eval import listing
from vr_eval.catalog.backbone import BackboneSpec
from vr_eval.catalog.backbones import BACKBONES


def backbones_table() -> str:
    """Every backbone with its parts, images, and what needs no training on it."""
    rows = [
        [code(spec.name), spec.summary, listing._image(spec), _tower(spec), _decoder(spec), _untrained(spec)]
        for spec in BACKBONES.values()
    ]
    return table(["backbone", "what it is", "an image is", "tower", "decoder", "needs no training with"], rows)


def tasks_text() -> str:
    """The official tasks as `vr-eval list tasks` prints them."""
    return block(listing.list_tasks())


def _tower(spec: BackboneSpec) -> str:
    return f"{spec.tower_depth} layers, {spec.tower_width} wide"


def _decoder(spec: BackboneSpec) -> str:
    return f"{spec.decoder_depth} layers, {spec.decoder_width} wide"


def _untrained(spec: BackboneSpec) -> str:
    if spec.checkpoint is None:
        return "shipped cells" if spec.weights is not None else "–"
    return spec.own_projector if spec.own_ratio == 1 else f"{spec.own_projector}, ratio {spec.own_ratio}"
