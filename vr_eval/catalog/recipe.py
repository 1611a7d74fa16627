"""How a cell is trained. Every value is part of the cell's identity: change one and the cell trains anew."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vr_eval.catalog.chat_templates import TEMPLATES
from vr_eval.catalog.fields import described
from vr_eval.catalog.frozen import FrozenDict
from vr_eval.hashes import sha256

DATA = "a LLaVA-format .json or .jsonl file, a .parquet file or folder of the datasets library, or a hub id ID@REVISION"
_END = 65_536  # bytes


@dataclass(frozen=True)
class StageData:
    """Where one stage's conversations come from and how they are written."""

    name: str
    image_folder: str | None
    template: str | None
    """``None``: the one that the model is asked with."""

    def __str__(self) -> str:
        return self.name

    @property
    def is_llava_file(self) -> bool:
        """Whether it is a LLaVA-format file, and no source of the datasets library."""
        return Path(self.name).suffix in (".json", ".jsonl")

    def identity(self) -> str:
        """Its content, wherever it lies: the hash of a file or of a folder's files, or the hub id with its revision.

        Of a file in a folder, name, size and end are hashed: the end of a parquet file says what is where in it.
        """
        path = Path(self.name).expanduser()
        if path.is_file():
            return sha256(path)
        if path.is_dir():
            listed = [(file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file()]
            files = tuple((file.relative_to(path).as_posix(), st.st_size, st.st_mtime_ns) for file, st in listed)
            return _hash_of_ends(path, files)
        return self.name if "@" in self.name else f"{self.name}@main"


@lru_cache(maxsize=8)
def _hash_of_ends(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    # Size and time are in the arguments only to notice a change; a plan asks once for each of its cells.
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{name}\0{size}\0".encode())
        with (folder / name).open("rb") as file:
            file.seek(max(size - _END, 0))
            digest.update(file.read())
    return digest.hexdigest()


@dataclass(frozen=True)
class Stage:
    """One stage of training: the method's new parameters alone, by the defaults of the first.

    Without data of its own it trains on the embedded suites, which only the embedded backbone can.
    """

    steps: int = described(480, "training steps", minimum=0)
    batch_size: int | None = described(
        None, "samples per step", minimum=1, maximum=65_536, later=True, default_note="recipe.batch_size"
    )
    lr_projector: float | None = described(
        None,
        "peak learning rate of the methods' new parameters, whatever lr_methods says",
        above=0,
        maximum=1,
        later=True,
        default_note="recipe.lr_methods, else recipe.lr_projector",
    )
    data: str | None = described(None, f"conversations: {DATA}", later=True, default_note="the embedded suites")
    image_folder: str | None = described(
        None, "folder that its image names are relative to", later=True, default_note="the data's own"
    )
    template: str | None = described(
        "plain",
        "how its conversations are written (null: as the model is asked)",
        choices=tuple(TEMPLATES),
        later=True,
    )


@dataclass(frozen=True)
class SecondStage(Stage):
    """A stage that trains the decoder too, and the vision tower if it has a rate."""

    steps: int = described(160, "training steps", minimum=0)
    template: str | None = described(
        None,
        "how its conversations are written, and the trained model is asked",
        choices=tuple(TEMPLATES),
        later=True,
        default_note="the backbone's, see `vr-eval list backbones`",
    )
    lr_decoder: float = described(3e-4, "peak learning rate of the decoder", above=0, maximum=1)
    lr_tower: float = described(
        0.0, "peak learning rate of the vision tower; 0: it stays frozen", minimum=0, maximum=1, later=True
    )


STAGES: Mapping[str, type[Stage]] = FrozenDict(stage1=Stage, stage2=SecondStage)
"""The keys of ``Recipe`` that hold a stage."""


@dataclass(frozen=True)
class Recipe:
    """Two stages, and what they have in common."""

    images: int = described(2500, "training images per suite", minimum=1, maximum=1_000_000)
    questions: int = described(4, "questions per image in one training sequence", minimum=1, maximum=64)
    facts: int = described(12, "facts per image that are listed after them", minimum=0, maximum=64)
    batch_size: int = described(16, "samples per training step", minimum=1, maximum=65_536)
    lr_projector: float = described(6e-3, "peak learning rate of the method's new parameters", above=0, maximum=1)
    lr_methods: Mapping[str, float] = described(
        FrozenDict(),
        "peak learning rates of single methods, in the stages without an lr_projector of their own",
        above=0,
        maximum=1,
        later=True,
        default_note="the backbone's, else lr_projector",
        example="lr_methods: {tokenpacker: 3.0e-4}",
    )
    warmup: float = described(0.03, "part of each stage that warms up; cosine decay after it", minimum=0, maximum=1)
    weight_decay: float = described(0.0, "decoupled weight decay (AdamW)", minimum=0, maximum=1)
    image_first: bool = described(
        False,
        "move the only image of a question to its front, where evaluations show it (LLaVA's own training does)",
        later=True,
    )
    max_length: int = described(
        4096, "tokens of one training sequence, those of its images included", minimum=1, later=True
    )
    broken: float = described(
        0.01, "share of a stage's samples that may be broken and left out", minimum=0, maximum=1, later=True
    )
    stage1: Stage = described(  # noqa: RUF009 - a field, like all the others
        Stage(),
        "the stage that trains the method's new parameters alone (keys below)",
        example="stage1: {steps: 50, batch_size: 32}",
        default_note="the backbone's",
    )
    stage2: SecondStage = described(  # noqa: RUF009 - a field, like all the others
        SecondStage(),
        "the stage after it, which trains new parameters, the decoder, and the vision tower if it is to (keys below)",
        example="stage2: {steps: 50, lr_tower: 2.0e-6}",
        default_note="the backbone's",
    )

    def stage(self, number: int) -> Stage:
        """Stage 1 or 2."""
        return self.stage1 if number == 1 else self.stage2

    def data(self, stage: int) -> StageData | None:
        """What stage 1 or 2 trains on, or ``None``: the embedded suites."""
        own = self.stage(stage)
        return None if own.data is None else StageData(own.data, own.image_folder, own.template)

    def rate(self, method: str, stage: int) -> float:
        """Peak learning rate of the parameters of `method` in stage 1 or 2."""
        return self.stage(stage).lr_projector or self.lr_methods.get(method, self.lr_projector)

    def batch(self, stage: int) -> int:
        """Samples of one step of stage 1 or 2, of all processes together."""
        return self.stage(stage).batch_size or self.batch_size

    @property
    def steps(self) -> int:
        """Training steps of both stages together."""
        return self.stage1.steps + self.stage2.steps
