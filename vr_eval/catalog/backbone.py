"""What plans, identities and estimates need to know about a backbone, without any weight. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vr_eval.catalog.recipe import Recipe
from vr_eval.catalog.tiling import Tiling


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
