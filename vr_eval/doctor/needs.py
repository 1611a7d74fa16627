"""What a grid reads from outside of this project, and whether the Hugging Face caches hold it already. No network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datasets.naming import camelcase_to_snakecase
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from vr_eval.adapters.data import data_cache
from vr_eval.config.grid import Grid
from vr_eval.config.official import SUITES
from vr_eval.config.tasks import task_data
from vr_eval.models.backbones import BACKBONES
from vr_eval.models.spec import Source
from vr_eval.runs.store import find_checkpoint

WEIGHTS = (".safetensors", ".bin")
"""Formats of weights that transformers reads, the better one first."""


@dataclass(frozen=True)
class Need:
    """One dataset (in one configuration) or one model of the hub.

    Attributes:
        kind: What it is.
        name: Its name on the hub.
        part: The dataset's configuration, or the model's revision; None for a dataset's only one.
        users: Tasks, or the backbone, that read it.
        bytes: Its size in the cache; None if it is not there.
        questions: Of a cached dataset, by split.
    """

    kind: Literal["dataset", "weights"]
    name: str
    part: str | None
    users: tuple[str, ...]
    bytes: int | None = None
    questions: tuple[tuple[str, int], ...] = ()

    @property
    def cached(self) -> bool:
        """Whether it is complete in the cache."""
        return self.bytes is not None

    @property
    def label(self) -> str:
        """Its name for people."""
        shown = self.part if self.kind == "dataset" else None if self.part == "main" else f"@{self.part}"
        return " ".join(filter(None, (self.kind, self.name, shown)))


def needs_of(grid: Grid) -> list[Need]:
    """What a run of `grid` reads from the hub, datasets first; a backbone that travels with the project needs none.

    Raises:
        InputError: A task has no definition, or one without data.
    """
    needs = dataset_needs(task for _, task in grid.tasks)
    unfinished = [cell for cell in grid.cells if cell.pretrained or find_checkpoint(cell) is None]
    return needs + (weight_needs([grid.backbone]) if unfinished else [])


def all_needs() -> list[Need]:
    """The data of every suite and the weights of every backbone."""
    return dataset_needs(task for tasks in SUITES.values() for task in tasks) + weight_needs(BACKBONES)


def dataset_needs(tasks: Iterable[str]) -> list[Need]:
    """The datasets of the hub that `tasks` read, each once."""
    users: dict[tuple[str, str | None], list[str]] = {}
    for task in tasks:
        for data in task_data(task):
            if data.on_hub:
                users.setdefault((data.path, data.config), []).append(task)
    return [_dataset(path, config, tuple(names)) for (path, config), names in users.items()]


def weight_needs(backbones: Iterable[str]) -> list[Need]:
    """The models of the hub that `backbones` are made from, each once; a folder is there already."""
    users: dict[Source, list[str]] = {}
    for name in backbones:
        for source in BACKBONES[name].sources:
            if not Path(source.name).is_dir():
                users.setdefault(source, []).append(name)
    return [
        Need("weights", source.name, source.revision, tuple(names), _weights_bytes(source))
        for source, names in users.items()
    ]


def _dataset(path: str, config: str | None, users: tuple[str, ...]) -> Need:
    """Looks where `datasets` itself looks when there is no network: `NAMESPACE___NAME/CONFIG/VERSION/HASH`."""
    *namespace, name = path.split("/")
    folder = data_cache() / "___".join([*namespace, camelcase_to_snakecase(name)])
    found = [
        (file.stat().st_mtime, content)
        for file in folder.glob("*/*/*/dataset_info.json")
        if not file.parent.name.endswith(".incomplete")
        and (content := _read(file)) is not None
        and config in (None, content.get("config_name"))
    ]
    if not found:
        return Need("dataset", path, config, users)
    content = max(found, key=lambda entry: entry[0])[1]
    splits: dict[str, Any] = content.get("splits") or {}
    questions = tuple((str(split), int(about.get("num_examples", 0))) for split, about in splits.items())
    return Need("dataset", path, config, users, int(content.get("dataset_size") or 0), questions)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _weights_bytes(source: Source) -> int | None:
    """Bytes of a model's files in the cache, or None if it is not there as a whole."""
    try:
        folder = Path(snapshot_download(source.name, revision=source.revision, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError, OSError):
        return None
    files = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    complete = "config.json" in files and any(_all_shards(folder, list(files), suffix) for suffix in WEIGHTS)
    return sum(files.values()) if complete else None


def _all_shards(folder: Path, files: Sequence[str], suffix: str) -> bool:
    """Whether the weights of one format are there: every file that an index names, or else any file at all."""
    indices = [name for name in files if name.endswith(f"{suffix}.index.json")]
    if not indices:
        return any(name.endswith(suffix) for name in files)
    named = (_read(folder / indices[0]) or {}).get("weight_map")
    return isinstance(named, dict) and set(named.values()) <= set(files)
