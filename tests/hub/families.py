"""Every family of backbones: its preset at tiny sizes, as a grid file describes it, and what it reads of the hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.hub import parts, tables
from tests.hub import repositories as models
from tests.hub.content import Repository
from vr_eval.catalog.tiling import TILINGS

GRID = """\
# Is what is claimed of real models so?
name: {name}
backbone:
  {{name: tiny, from: {preset}, {sources}, grid: {px.GRID}, image_px: {px.PX}, patch_px: {px.PATCH},
   tower_depth: {px.DEPTH}, tower_width: {px.TOWER_WIDTH}, tower_heads: 2, select_layer: {layer},
   decoder_depth: {px.DEPTH}, decoder_width: {px.WIDTH}, tiling: {tiling}}}
tasks: [{tasks}]
cells:
{cells}
recipe:
  batch_size: 4
  max_length: 2000
  stage1: {{steps: 2, batch_size: 4, data: {data}}}
  stage2: {{steps: 2, data: {data}}}
batch_size: 4
"""
WHOLE = (
    "{projector: mlp}",
    "{projector: mlp, pruning: fastv, fastv.keep_ratio: 0.5}",
    "{projector: avg_pool, ratio: 4, refusion: vision_remember}",
)
PARTS = ("{projector: mlp}", "{projector: tokenpacker, ratio: 4}")


@dataclass(frozen=True)
class Family:
    """A preset and what its repositories hold.

    Attributes:
        preset: Its name.
        sources: The keys of `backbone` that name models.
        writers: By the id of a model what writes its files.
        layer: Of the tower, that is read.
        tiling: As a grid file writes it.
        cells: Of its grid.
    """

    preset: str
    sources: str
    writers: dict[str, Callable[..., None]]
    layer: int = 3
    tiling: Any = None
    cells: tuple[str, ...] = WHOLE

    def repositories(self, folder: Path) -> list[Repository]:
        """Its models."""
        return [models.published(id, write, folder / id.replace("/", "--")) for id, write in self.writers.items()]

    def write_grid(
        self,
        folder: Path,
        name: str = "real",
        *,
        cells: Sequence[str] = (),
        tasks: Sequence[str] = tables.OF_EACH_SUITE,
        data: str = tables.CONVERSATIONS,
        sources: str = "",
    ) -> None:
        """Write `NAME.yaml`; without `cells` with its own."""
        listed = "\n".join(f"  - {cell}" for cell in cells or self.cells)
        tiling = "null" if self.tiling is None else self.tiling
        shown = {"preset": self.preset, "sources": sources or self.sources, "layer": self.layer, "tiling": tiling}
        text = GRID.format(name=name, px=parts, cells=listed, tasks=", ".join(tasks), data=data, **shown)
        (folder / f"{name}.yaml").write_text(text)


def _points(scheme: str) -> str:
    tiling = TILINGS[scheme].of(parts.PX)
    return f"{{scheme: {scheme}, pinpoints: {[list(point) for point in tiling.pinpoints]}}}"


def _checkpoint(preset: str, id: str, write: Callable[..., None], **more: Any) -> Family:
    return Family(preset, f"checkpoint: {id}", {id: write}, **more)


_ORIGINAL = "liuhaotian/llava-v1.5-7b"
LLAVA = _checkpoint("llava_1_5_7b", "llava-hf/llava-1.5-7b-hf", models.llava)
FAMILIES = {
    "llava_next_qwen2": Family(
        "llava_next_qwen2_0_5b",
        f"tower: {models.CLIP}, decoder: {models.QWEN2}",
        {models.CLIP: models.clip, models.QWEN2: models.qwen2},
        tiling=f"{{pinpoints: {parts.NEXT_POINTS}}}",
        cells=PARTS,
    ),
    "llava_hd_vicuna": Family(
        "llava_hd_vicuna_7b",
        f"tower: {models.CLIP}, decoder: {models.VICUNA}",
        {models.CLIP: models.clip, models.VICUNA: models.vicuna},
        tiling=_points("tokenpacker_hd"),
        cells=PARTS,
    ),
    "llava": LLAVA,
    "llava_next": _checkpoint(
        "llava_next_vicuna_7b",
        "llava-hf/llava-v1.6-vicuna-7b-hf",
        partial(models.llava, tiled=True),
        tiling=f"{{pinpoints: {parts.NEXT_POINTS}}}",
    ),
    "llava_onevision": _checkpoint(
        "llava_onevision_0_5b",
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        models.onevision,
        layer=4,
        tiling=f"{{pinpoints: {parts.ONEVISION_POINTS}, limit: 9, lone: true}}",
    ),
    "internvl": _checkpoint(
        "internvl3_1b",
        "OpenGVLab/InternVL3-1B-hf",
        models.internvl,
        layer=4,
        tiling=_points("internvl"),
        cells=("{projector: pixel_shuffle, ratio: 4}", "{projector: avg_pool, ratio: 4}"),
    ),
    "original": Family(
        "llava_1_5_7b",
        f"checkpoint: {_ORIGINAL}",
        {_ORIGINAL: models.original_llava, models.CLIP: models.clip},
    ),
}


def data_repositories() -> list[Repository]:
    """An official task of every suite, and conversations to train on."""
    return [*tables.official(*tables.OF_EACH_SUITE), tables.conversations()]
