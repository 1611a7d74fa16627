"""Which tasks there are, their version and their data, from their YAML alone (lmms-eval takes seconds to import)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from vr_eval import paths
from vr_eval.catalog.official_tasks import OFFICIAL, definition_version, packaged_files
from vr_eval.errors import InputError, Problem, nearest
from vr_eval.files import read_text

SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, where PyYAML has it: it is written in C, and a plan reads a file for each task."""


class _TaskLoader(SafeLoader):
    """Task files name Python functions by a tag (``!function``); here they are skipped, never run."""


_NAME = r"\w[\w.-]{0,127}"
_MOST_ENTRIES = 20_000

_TaskLoader.add_multi_constructor("", lambda loader, suffix, node: None)


Folders = Sequence[str]
"""Folders with tasks of the user's own, as a grid holds them (``tasks_path``, ``--tasks-path``)."""


def task_files(folders: Folders = ()) -> dict[str, Path]:
    """Task name to the YAML file that defines it: the official ones, those under ``tasks/``, and those in ``folders``.

    A file under ``tasks/`` or in ``folders`` may redefine an official task, e.g. ``include`` its packaged file by an
    absolute path and name a local folder as ``dataset_path``. Any other name that is taken is refused.

    Raises:
        InputError: With every task of ``folders`` whose name is taken, and every folder that is none.
    """
    files = packaged_files() | _scan(paths.resource("tasks"))
    return files | _own(files, tuple(folders)) if folders else files


def task_version(task: str, folders: Folders = ()) -> str:
    """``metadata.version`` of a task, as text; for an official task the version of how it is asked and scored.

    Raises:
        InputError: There is no such task, its file cannot be read, or it states no version.
    """
    packaged = packaged_files().get(task)
    files = task_files(folders)
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


def task_data(task: str, folders: Folders = ()) -> tuple[TaskData, ...]:
    """The data of a task that is defined; several where they are in several configurations.

    Raises:
        InputError: The task's file cannot be read, or names no data.
    """
    file, official = task_files(folders)[task], OFFICIAL.get(task)
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
    return dict(_defined(sorted(folder.rglob("*.yaml"))))


def _defined(files: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """The tasks that YAML files define; a file without a name is a part that others include."""
    for path in files:
        name = task_fields(path).get("task")
        if isinstance(name, str):
            yield name, path


def _own(taken: Mapping[str, Path], folders: tuple[str, ...]) -> dict[str, Path]:
    """The tasks of the user's own folders."""
    found: dict[str, Path] = {}
    problems: list[Problem] = []
    for folder in folders:
        for name, path in _defined(_yaml_files(Path(folder))):
            if not re.fullmatch(_NAME, name):
                allowed = (
                    "letters, digits, dot, dash and underscore; at most 128, the first a letter, digit or underscore"
                )
                problems.append(Problem("this cannot name a task", str(path), key="task", given=name, allowed=allowed))
                continue
            other = found.get(name) or (None if name in OFFICIAL else taken.get(name))
            if other is not None and other != path:
                hint = f"The other one is in {other}; give one of them another name."
                problems.append(Problem(f"the task {name} is defined twice", file=str(path), key="task", hint=hint))
            found.setdefault(name, path)
    if problems:
        raise InputError(problems)
    return found


def _yaml_files(folder: Path) -> list[Path]:
    """The YAML files of a folder and those below it, hidden ones aside."""
    if not folder.is_dir():
        raise InputError(Problem("there is no such folder of tasks", file=str(folder)))
    found: list[Path] = []
    entries = 0
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        entries += len(folders) + len(files)
        found += (Path(place, name) for name in sorted(files) if name.endswith(".yaml") and not name.startswith("."))
        if entries > _MOST_ENTRIES:
            hint = "Name the folder that the tasks are in."
            message = f"a folder of tasks with more than {_MOST_ENTRIES} files in it"
            raise InputError(Problem(message, file=str(folder), hint=hint))
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
    if isinstance(include, str | list) and depth < 8:
        # Of several files the first one counts most, as lmms-eval has it.
        for name in map(str, include if isinstance(include, list) else [include]):
            fields = {**task_fields((path.parent / name).resolve(), depth + 1), **fields}
    return fields


def included_files(path: Path, depth: int = 0) -> tuple[Path, ...]:
    """A task file and those that it includes, each once.

    Raises:
        InputError: One of them cannot be read.
    """
    include = task_fields(path).get("include")
    names = include if isinstance(include, list) else [include] if isinstance(include, str) else []
    parts = [(path.parent / str(name)).resolve() for name in names] if depth < 8 else []
    return tuple(dict.fromkeys([path, *(one for part in parts for one in included_files(part, depth + 1))]))
