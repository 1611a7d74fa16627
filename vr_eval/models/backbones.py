"""Backbones by name: what plans, identities and estimates need to know, without loading any weight.

``vr_eval.models`` builds the model of a spec; this module stays light and never imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from vr_eval.config.recipe import Recipe
from vr_eval.micro.version import GENERATOR_VERSION
from vr_eval.paths import PACKAGE

FEATURES: Mapping[str, str] = MappingProxyType(
    {
        "tower_levels": "hidden states of any layer of the vision tower",
        "decoder_layers": "a place between decoder layers to change vision tokens",
        "image_sizes": "a vision tower that takes images of other sizes, with interpolated position embeddings",
    }
)
"""What a method can ask of a backbone, with the words that a refusal uses."""


@dataclass(frozen=True)
class BackboneSpec:
    """One vision tower and one decoder.

    Attributes:
        name: Name in grid files.
        summary: One line for ``vr-eval list backbones``.
        grid: Patches per side, G.
        image_px: Pixels per side of the square image.
        patch_px: Pixels per side of a patch.
        tower_depth: Layers of the vision tower; hidden states go from 0 (embeddings) to ``tower_depth``.
        tower_width: Channels of the vision tower, D.
        tower_heads: Attention heads of the vision tower.
        select_layer: Hidden state that a projector compresses.
        decoder_depth: Decoder layers.
        decoder_width: Channels of the decoder, H.
        suites: Suite name to its tasks.
        features: What methods may need (keys of ``FEATURES``).
        recipe: Default recipe of its cells.
        data_version: Version of its training data.
        weights: Folder of its frozen weights, ``None`` where they are not ours to ship.
        test_questions: Questions of one task, for estimates only.
        train_seconds_per_step: Measured on 2 CPU cores, for estimates only.
        eval_ms_per_question: Measured on 2 CPU cores, for estimates only.
    """

    name: str
    summary: str
    grid: int
    image_px: int
    patch_px: int
    tower_depth: int
    tower_width: int
    tower_heads: int
    select_layer: int
    decoder_depth: int
    decoder_width: int
    suites: Mapping[str, tuple[str, ...]]
    features: frozenset[str]
    data_version: str
    weights: Path | None = None
    recipe: Recipe = field(default_factory=Recipe)
    test_questions: int = 512
    train_seconds_per_step: float = 0.6
    eval_ms_per_question: float = 7.0

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of all suites, in order."""
        return tuple(task for tasks in self.suites.values() for task in tasks)


MICRO = BackboneSpec(
    name="micro",
    summary="the embedded default: 4-layer CLIP vision tower, 4-layer Qwen2 decoder, generated suites",
    grid=12,
    image_px=192,
    patch_px=16,
    tower_depth=4,
    tower_width=96,
    tower_heads=4,
    select_layer=4,
    decoder_depth=4,
    decoder_width=128,
    suites=MappingProxyType(
        {
            "ocr": ("vr_micro_ocr",),
            "chart": ("vr_micro_chart",),
            "doc": ("vr_micro_doc",),
            "general": ("vr_micro_general",),
        }
    ),
    features=frozenset(FEATURES),
    data_version=f"micro-{GENERATOR_VERSION}",
    weights=PACKAGE / "micro" / "weights",
)

BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in (MICRO,)}


def weights_hash(spec: BackboneSpec) -> str:
    """SHA-256 over names and bytes of the weights' files (hidden files aside), or ``"unbuilt"`` without any file."""
    if spec.weights is None or not spec.weights.is_dir():
        return "unbuilt"
    files = []
    for path in spec.weights.rglob("*"):
        name = path.relative_to(spec.weights)
        if path.is_file() and not any(part.startswith((".", "__")) for part in name.parts):
            status = path.stat()
            files.append((name.as_posix(), status.st_size, status.st_mtime_ns))
    return _hash_of(spec.weights, tuple(sorted(files))) if files else "unbuilt"


@lru_cache(maxsize=8)
def _hash_of(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    # Size and time are in the arguments only to notice a change; a plan asks once for each of its cells.
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{name}\0{size}\0".encode())
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()
