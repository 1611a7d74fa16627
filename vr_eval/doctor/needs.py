"""What a grid reads from outside of this project, and whether the Hugging Face caches hold it already. No network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets.naming import camelcase_to_snakecase
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.backbones import BACKBONES, BackboneSpec
from vr_eval.catalog.official_tasks import SUITES
from vr_eval.catalog.recipe import Recipe, StageData
from vr_eval.catalog.tasks import Folders, task_data
from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.places import data_cache

WEIGHTS = (".safetensors", ".bin")
"""Formats of weights that transformers reads, the better one first."""
UNUSED = (".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".gguf", ".tflite", ".pth", ".pt")
"""Files of weights in formats that we do not read."""
COMMIT_LENGTH = 40


@dataclass(frozen=True)
class Need:
    """One dataset (in one configuration) or one model of the hub.

    Attributes:
        kind: What it is; `training data` is a dataset too, of a recipe.
        name: Its name on the hub.
        part: The dataset's configuration, or the revision of a model or of training data; None for a dataset's only
            one, and for the newest revision.
        users: Tasks, or the backbone, that read it.
        bytes: Its size in the cache; None if it is not there.
        questions: Of a cached dataset, by split.
    """

    kind: Literal["dataset", "training data", "weights"]
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
        shown = self.part if self.kind == "dataset" else None if self.part in (None, "main") else f"@{self.part}"
        return " ".join(filter(None, (self.kind, self.name, shown)))


def needs_of(grid: Grid) -> list[Need]:
    """What a run of `grid` reads from the hub, datasets first; a backbone that travels with the project needs none.

    Raises:
        InputError: A task has no definition, or one without data.
    """
    needs = dataset_needs((task for _, task in grid.tasks), grid.tasks_path)
    if any(cell.trained and find_checkpoint(cell) is None for cell in grid.cells):
        needs += training_needs(grid.recipe)
    return needs + _source_needs((source, cell.backbone) for cell in grid.cells for source in _loaded(cell))


def _loaded(cell: Cell) -> list[Source]:
    """The models of others that are loaded to train or evaluate `cell`."""
    checkpoint = find_checkpoint(cell)
    if checkpoint is None:
        return [] if cell.random_weights else list(cell.spec.sources)
    if not cell.pretrained:
        return []
    # Its commit was settled when it was first used, wherever its branch has moved since.
    manifest = _read(checkpoint / "checkpoint.json") or {}
    return [Source(**manifest[key]) for key in ("source", "tower") if isinstance(manifest.get(key), dict)]


def all_needs() -> list[Need]:
    """The data of every suite and the weights of every backbone."""
    return dataset_needs(task for tasks in SUITES.values() for task in tasks) + weight_needs(BACKBONES.values())


def dataset_needs(tasks: Iterable[str], folders: Folders = ()) -> list[Need]:
    """The datasets of the hub that `tasks` read, each once."""
    users: dict[tuple[str, str | None], list[str]] = {}
    for task in tasks:
        for data in task_data(task, folders):
            if data.on_hub:
                users.setdefault((data.path, data.config), []).append(task)
    cache = data_cache()
    return [
        Need("dataset", path, config, tuple(names), *_dataset(cache, path, config))
        for (path, config), names in users.items()
    ]


def training_needs(recipe: Recipe) -> list[Need]:
    """What the stages of `recipe` train on and the hub has; files and folders are the user's to bring."""
    stages = [recipe.data(stage) for stage in (1, 2)]
    names = dict.fromkeys(data.name for data in stages if data is not None and _on_hub(data))
    needs = []
    for given in names:
        name, _, revision = given.partition("@")
        cached = _dataset(Path(datasets.config.HF_DATASETS_CACHE), name, None, revision)
        needs.append(Need("training data", name, revision or None, ("training",), *cached))
    return needs


def _on_hub(data: StageData) -> bool:
    path = Path(data.name).expanduser()
    return not (data.is_llava_file or path.suffix == ".parquet" or path.exists())


def weight_needs(backbones: Iterable[BackboneSpec]) -> list[Need]:
    """The models of the hub that `backbones` are made from, each once; a folder is there already."""
    return _source_needs((source, spec.name) for spec in backbones for source in spec.sources)


def _source_needs(used: Iterable[tuple[Source, str]]) -> list[Need]:
    """What `used` names with its user, and the vision towers that cached checkpoints of the original layout name."""
    users: dict[Source, list[str]] = {}
    left = list(used)
    while left:
        source, user = left.pop(0)
        folder = Path(source.name) if Path(source.name).is_dir() else _snapshot(source)
        tower = (_read(folder / "config.json") or {}).get("mm_vision_tower") if folder is not None else None
        if isinstance(tower, str) and not Path(tower).is_dir():
            left.append((Source(tower), user))
        if not Path(source.name).is_dir() and user not in users.setdefault(source, []):
            users[source].append(user)
    return [
        Need("weights", source.name, source.revision, tuple(names), _weights_bytes(source))
        for source, names in users.items()
    ]


def _dataset(
    cache: Path, path: str, config: str | None, revision: str = ""
) -> tuple[int | None, tuple[tuple[str, int], ...]]:
    """Bytes and questions by split, if it is cached.

    Looks where `datasets` itself looks when there is no network: `NAMESPACE___NAME/CONFIG/VERSION/COMMIT`.
    """
    *namespace, name = path.split("/")
    folder = cache / "___".join([*namespace, camelcase_to_snakecase(name)])
    commit = revision if len(revision) == COMMIT_LENGTH else "*"
    found = [
        (file.stat().st_mtime, content)
        for file in folder.glob(f"*/*/{commit}/dataset_info.json")
        if not file.parent.name.endswith(".incomplete")
        and (content := _read(file)) is not None
        and config in (None, content.get("config_name"))
    ]
    if not found:
        return None, ()
    content = max(found, key=lambda entry: entry[0])[1]
    splits: dict[str, Any] = content.get("splits") or {}
    questions = tuple((str(split), int(about.get("num_examples", 0))) for split, about in splits.items())
    return int(content.get("dataset_size") or 0), questions


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def unread(suffix: str) -> tuple[str, ...]:
    """Ends of the names of files that are not read of a model whose weights are in the format `suffix`."""
    others = (*UNUSED, *(other for other in WEIGHTS if other != suffix))
    return (*others, *(f"{other}.index.json" for other in others))


def _weights_bytes(source: Source) -> int | None:
    """Bytes of a model's files in the cache, or None if it is not there as a whole."""
    for suffix in WEIGHTS:
        folder = _snapshot(source, suffix)
        if folder is None:
            continue
        found = [file for file in folder.rglob("*") if file.is_file()]
        sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in found}
        if "config.json" in sizes and _all_shards(folder, list(sizes), suffix):
            return sum(sizes.values())
    return None


def _snapshot(source: Source, suffix: str = WEIGHTS[0]) -> Path | None:
    """The folder of a model in the cache, if nothing is missing that is read where weights are in this format.

    What the hub has was written down when it was fetched; of what came in another way, any part will do.
    """
    ignored = [f"*{end}" for end in unread(suffix)]
    try:
        found = snapshot_download(source.name, revision=source.revision, local_files_only=True, ignore_patterns=ignored)
    except (LocalEntryNotFoundError, ValueError, OSError):
        return None
    return Path(found)


def _all_shards(folder: Path, files: Sequence[str], suffix: str) -> bool:
    """Whether the weights of one format are there: every file that an index names, or else any file at all."""
    indices = [name for name in files if name.endswith(f"{suffix}.index.json")]
    if not indices:
        return any(name.endswith(suffix) for name in files)
    named = (_read(folder / indices[0]) or {}).get("weight_map")
    return isinstance(named, dict) and set(named.values()) <= set(files)
