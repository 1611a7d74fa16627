"""Which tasks there are, their version and their data, from their YAML alone (lmms-eval takes seconds to import)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from vr_eval import paths
from vr_eval.config.official import OFFICIAL, definition_version, packaged_files
from vr_eval.errors import InputError, Problem, nearest
from vr_eval.files import read_text


class _TaskLoader(yaml.SafeLoader):
    """Task files name Python functions by a tag (``!function``); here they are skipped, never run."""


_TaskLoader.add_multi_constructor("", lambda loader, suffix, node: None)


def task_files() -> dict[str, Path]:
    """Task name to the YAML file that defines it: the official ones, and those under ``tasks/``.

    A file under ``tasks/`` may redefine an official task, e.g. ``include`` its packaged file by an absolute path and
    name a local folder as ``dataset_path``.
    """
    return packaged_files() | _scan(paths.resource("tasks"))


def task_version(task: str) -> str:
    """``metadata.version`` of a task, as text; for an official task the version of how it is asked and scored.

    Raises:
        InputError: There is no such task, its file cannot be read, or it states no version.
    """
    packaged = packaged_files().get(task)
    files = task_files()
    if task not in files:
        place = str(paths.resource("tasks"))
        raise InputError(Problem(f"no file defines the task {task}", file=place, nearest=nearest(task, files)))
    if files[task] == packaged:
        return definition_version()
    metadata = task_fields(files[task]).get("metadata")
    # lmms-eval takes a mapping as well as a list of one.
    if isinstance(metadata, list) and metadata:
        metadata = metadata[0]
    version = metadata.get("version") if isinstance(metadata, dict) else None
    if version is None:
        hint = "Results are named by it: add `metadata: {version: 1}`, and raise it when the task changes."
        message = "the task states no version"
        raise InputError(Problem(message, file=str(files[task]), key="metadata.version", hint=hint))
    return f"{version} ({definition_version()})" if packaged else str(version)


@dataclass(frozen=True)
class TaskData:
    """Where a task's questions and images come from.

    Attributes:
        path: Name of a dataset of the hub, a folder, or a format such as ``parquet`` whose files the task names.
        config: The dataset's configuration; None for its only one.
    """

    path: str
    config: str | None

    @property
    def on_hub(self) -> bool:
        """Whether it has to be downloaded: a format has no slash, and a folder is there."""
        return "/" in self.path and not Path(self.path).exists()


def task_data(task: str) -> tuple[TaskData, ...]:
    """The data of a task that is defined; several where they are in several configurations.

    Raises:
        InputError: The task's file cannot be read, or names no data.
    """
    file, official = task_files()[task], OFFICIAL.get(task)
    fields = task_fields(file)
    if "dataset_path" not in fields:
        raise InputError(Problem(f"the task {task} names no data", file=str(file), key="dataset_path"))
    path, config = str(fields["dataset_path"]), fields.get("dataset_name")
    if official is None:
        return (TaskData(path, config),)
    configs = part_configs(task) or (config,)
    return tuple(TaskData(path, name) for name in (*configs, *((official.images,) if official.images else ())))


def part_configs(task: str) -> tuple[str, ...]:
    """The configurations of the dataset that an official task joins, as its packaged files name them; often none."""
    pattern = OFFICIAL[task].parts if task in OFFICIAL else ""
    files = sorted(packaged_files()[task].parent.glob(pattern)) if pattern else ()
    return tuple(str(task_fields(file)["dataset_name"]) for file in files)


@lru_cache(maxsize=8)
def _scan(folder: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        name = task_fields(path).get("task")
        if isinstance(name, str):
            found[name] = path
    return found


@lru_cache(maxsize=256)
def task_fields(path: Path, depth: int = 0) -> dict[str, Any]:
    """Top-level keys of a task file, those of the file that it includes filled in."""
    try:
        content = yaml.load(read_text(path, str(path)), Loader=_TaskLoader)
    except yaml.YAMLError as error:
        raise InputError(Problem(f"the task file cannot be read: {error}", file=str(path))) from error
    fields: dict[str, Any] = content if isinstance(content, dict) else {}
    include = fields.get("include")
    if isinstance(include, str) and depth < 8:
        fields = {**task_fields((path.parent / include).resolve(), depth + 1), **fields}
    return fields
