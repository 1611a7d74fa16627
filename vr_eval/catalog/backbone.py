"""What plans, identities and estimates need to know about a backbone, without any weight. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vr_eval.catalog.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """A model on the Hugging Face hub, or a folder in its place.

    Attributes:
        name: Hub id such as ``llava-hf/llava-1.5-7b-hf``, or the path of a folder.
        revision: Branch, tag or commit; a commit pins what is loaded.
    """

    name: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"


DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
BITS = (4, 8)


@dataclass(frozen=True)
class Loading:
    """How weights are loaded for an evaluation.

    Attributes:
        dtype: One of ``DTYPES``.
        device_map: As accelerate takes it, e.g. ``auto``; ``None`` for one device.
        attention: One of ``ATTENTIONS``; ``None`` for transformers' choice.
        bits: One of ``BITS``: the decoder's matrices are quantised by bitsandbytes, those of tower and methods are not.
    """

    dtype: str = "float32"
    device_map: str | None = None
    attention: str | None = None
    bits: int | None = None

    @property
    def placed(self) -> bool:
        """Whether loading puts the model on its devices, so that nothing else may move it."""
        return self.device_map is not None or self.bits is not None


SCHEMES = ("anyres", "internvl", "tokenpacker_hd")
"""Ways to cut an image into tiles."""
_LONGEST_LINE = 9
"""TokenPacker-HD cuts an image into a single row or column of so many tiles at most (official code)."""


@dataclass(frozen=True)
class Tiling:
    """Images of any shape as a base view and tiles of the tower's size.

    Schemes: ``anyres`` (LLaVA-NeXT) fits an image, with its aspect, into the best of some resolutions; the tokens of
    the padding are dropped, and a learned token ends every row. ``internvl`` (InternVL 1.5's dynamic resolution)
    stretches it to the resolution of the closest aspect; nothing stands between the tiles, and the base view is the
    last. ``tokenpacker_hd`` fits it, with its aspect, into the resolution that it fills best; the decoder's own tokens
    for a comma and a line break separate tiles and end rows, and the base view is the last.

    Attributes:
        pinpoints: The resolutions, ``(height, width)`` in pixels; both are multiples of the tower's size.
        limit: Tokens of the tiles, in tiles' worth, above which they are resized by bilinear interpolation
            (LLaVA-OneVision's anyres_max_9); ``None`` for no limit.
        lone: Only an image that is alone in its sample is tiled; one of several is shown as its base view, with one
            newline token after it (LLaVA-OneVision).
        scheme: One of ``SCHEMES``.
    """

    pinpoints: tuple[tuple[int, int], ...]
    limit: int | None = None
    lone: bool = False
    scheme: str = "anyres"

    @classmethod
    def internvl(cls, image_px: int, most: int = 12, least: int = 1) -> Tiling:
        """InternVL's: every grid of `least` to `most` tiles of ``image_px`` pixels a side (12: its default)."""
        grids = [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)]
        fitting = [grid for grid in grids if grid[0] * grid[1] >= least]
        return cls(_pinpoints(fitting, image_px), scheme="internvl")

    @classmethod
    def tokenpacker_hd(cls, image_px: int, most: int = 9) -> Tiling:
        """TokenPacker-HD's: every grid of up to `most` tiles, single lines of up to 9 (official: 9, 16 or 25)."""
        grids = [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)]
        fitting = [grid for grid in grids if min(grid) > 1 or max(grid) <= _LONGEST_LINE]
        return cls(_pinpoints(fitting, image_px), scheme="tokenpacker_hd")

    def most_tiles(self, image_px: int) -> int:
        """Tiles of the largest resolution for a tower of ``image_px`` pixels a side, the base view not counted."""
        return max(self._tiles(image_px))

    def fewest_tiles(self, image_px: int) -> int:
        """Tiles of the smallest resolution, the base view not counted."""
        return min(self._tiles(image_px))

    def _tiles(self, image_px: int) -> list[int]:
        return [(height // image_px) * (width // image_px) for height, width in self.pinpoints]


def _pinpoints(grids: list[tuple[int, int]], image_px: int) -> tuple[tuple[int, int], ...]:
    """Resolutions of grids ``(rows, columns)``, those of fewer tiles first."""
    ordered = sorted(grids, key=lambda grid: grid[0] * grid[1])
    return tuple((rows * image_px, columns * image_px) for rows, columns in ordered)


@dataclass(frozen=True)
class BackboneSpec:
    """One vision tower and one decoder.

    Attributes:
        name: Name in grid files.
        summary: One line for ``vr-eval list backbones``.
        grid: Patches per side, G.
        image_px: Pixels per side of the square image (or tile).
        patch_px: Pixels per side of a patch.
        tower_depth: Layers of the vision tower; hidden states go from 0 (embeddings) to ``tower_depth``.
        tower_width: Channels of the vision tower, D.
        tower_heads: Attention heads of the vision tower.
        select_layer: Hidden state that a projector compresses.
        decoder_depth: Decoder layers.
        decoder_width: Channels of the decoder, H.
        suites: Suite name to its tasks.
        recipe: Default recipe of its cells.
        data_version: Version of its training data.
        weights: Folder of its frozen weights, ``None`` where they are not ours to ship.
        checkpoint: A whole checkpoint (tower, projector, decoder, processor) that its cells start from.
        tower: Where its vision tower and image processor come from, if not from ``checkpoint``.
        decoder: Where its decoder and tokenizer come from, if not from ``checkpoint``.
        tiling: How images are cut into tiles; ``None`` if every image is one square.
        own_projector: The projector that ``checkpoint`` was trained with: its cell needs no training.
        own_ratio: The ratio of it.
        template: Chat template where the checkpoint or its tokenizer brings none that shows images (a key of
            ``vr_eval.catalog.chat_templates.TEMPLATES``); ``None`` to tell it from the tokenizer.
        loading: How its weights are loaded for an evaluation, unless a command says otherwise.
        preset: The backbone that a described one was taken from; ``None`` for one that has its own name.
        test_questions: Questions of one task, for estimates only.
        train_seconds_per_step: Measured on 2 CPU cores, for estimates only; ``None`` where it was not.
        eval_ms_per_question: Measured on 2 CPU cores, for estimates only; ``None`` where it was not.
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
    data_version: str
    weights: Path | None = None
    checkpoint: Source | None = None
    tower: Source | None = None
    decoder: Source | None = None
    tiling: Tiling | None = None
    own_projector: str = "mlp"
    own_ratio: int = 1
    template: str | None = None
    recipe: Recipe = field(default_factory=Recipe)
    loading: Loading = Loading()
    preset: str | None = None
    test_questions: int = 512
    train_seconds_per_step: float | None = 0.6
    eval_ms_per_question: float | None = 7.0

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of all suites, in order."""
        return tuple(task for tasks in self.suites.values() for task in tasks)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Everything that is loaded from outside of this project."""
        return tuple(source for source in (self.checkpoint, self.tower, self.decoder) if source is not None)
