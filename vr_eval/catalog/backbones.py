"""Backbones by name: what plans, identities and estimates need to know, without loading any weight.

``vr_eval.models`` builds the model of a spec; this module stays light and never imports torch.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from vr_eval.catalog.backbone import BackboneSpec, Source
from vr_eval.catalog.frozen import FrozenDict
from vr_eval.catalog.generator import GENERATOR_VERSION
from vr_eval.catalog.presets import PRESETS
from vr_eval.catalog.recipe import Recipe
from vr_eval.checksums import check_weights
from vr_eval.hashes import spread
from vr_eval.paths import PACKAGE

__all__ = ["BACKBONES", "MICRO", "BackboneSpec", "weights_hash"]

LR_METHODS = FrozenDict(tokenpacker=3e-4, sva_connector=6e-4, c_abstractor=2e-3, resampler=2e-3)
"""Peak rates of methods that learn slowly or not at all at the recipe's `lr_projector` on the embedded backbone (ours).

Chosen by the loss of stage 1, which sees no image twice, from 2e-4 to 6e-3: two to four rates each, some for 160 steps
and some for 480.
"""

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
    suites=FrozenDict(
        {
            "ocr": ("vr_micro_ocr",),
            "chart": ("vr_micro_chart",),
            "doc": ("vr_micro_doc",),
            "general": ("vr_micro_general",),
        }
    ),
    data_version=f"micro-{GENERATOR_VERSION}",
    weights=PACKAGE / "micro" / "weights",
    template="chatml",
    recipe=Recipe(lr_methods=LR_METHODS),
)

_PLACES, _BLOCK = 256, 4096  # bytes

BACKBONES: dict[str, BackboneSpec] = {spec.name: spec for spec in (MICRO, *PRESETS)}


def weights_hash(spec: BackboneSpec) -> str:
    """SHA-256 over names and bytes of the weights' files (hidden files aside), or ``"unbuilt"`` without any file.

    Weights that are not ours are named by where they come from, revision included; a folder, which has none, by what
    is in it too.

    Raises:
        InputError: Weights that travel with the project are damaged.
    """
    if spec.sources:
        return ", ".join(map(_named, spec.sources))
    if spec.weights is None or not spec.weights.is_dir():
        return "unbuilt"
    files = weight_files(spec.weights)
    check_weights(spec.weights, files)
    return _hash_of(spec.weights, files) if files else "unbuilt"


def _named(source: Source) -> str:
    folder = Path(source.name)
    return f"{source} {_hash_of(folder, weight_files(folder), _PLACES)}" if folder.is_dir() else str(source)


def weight_files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of all files in a folder that are not hidden."""
    files = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith((".", "__")) for part in name.parts):
            status = path.stat()
            files.append((name.as_posix(), status.st_size, status.st_mtime_ns))
    return tuple(sorted(files))


@lru_cache(maxsize=8)
def _hash_of(folder: Path, files: tuple[tuple[str, int, int], ...], places: int | None = None) -> str:
    """Of all bytes, or of those at so many places of a file: of weights of gigabytes, a change shows there too."""
    # Size and time are in the arguments only to notice a change; a plan asks once for each of its cells.
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{name}\0{size}\0".encode())
        if places is None or size <= places * _BLOCK:
            digest.update((folder / name).read_bytes())
            continue
        with (folder / name).open("rb") as file:
            for block in spread(file, places, _BLOCK):
                digest.update(block)
    return digest.hexdigest()
