"""Which tasks there are and which version they have, read from their YAML alone (lmms-eval takes seconds to import)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from vr_eval import paths
from vr_eval.errors import InputError, Problem, nearest


class _TaskLoader(yaml.SafeLoader):
    """Task files name Python functions by a tag (``!function``); here they are skipped, never run."""


_TaskLoader.add_multi_constructor("", lambda loader, suffix, node: None)


def task_files() -> dict[str, Path]:
    """Task name to the YAML file that defines it."""
    return dict(_scan(paths.resource("tasks")))


def task_version(task: str) -> str:
    """``metadata.version`` of a task, as text.

    Raises:
        InputError: There is no such task, its file cannot be read, or it states no version.
    """
    files = task_files()
    if task not in files:
        place = str(paths.resource("tasks"))
        raise InputError(Problem(f"no file defines the task {task}", file=place, nearest=nearest(task, files)))
    metadata = task_fields(files[task]).get("metadata")
    # lmms-eval takes a mapping as well as a list of one.
    if isinstance(metadata, list) and metadata:
        metadata = metadata[0]
    version = metadata.get("version") if isinstance(metadata, dict) else None
    if version is None:
        hint = "Results are named by it: add `metadata: {version: 1}`, and raise it when the task changes."
        message = "the task states no version"
        raise InputError(Problem(message, file=str(files[task]), key="metadata.version", hint=hint))
    return str(version)


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
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, Loader=_TaskLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(Problem(f"the task file cannot be read: {error}", file=str(path))) from error
    fields: dict[str, Any] = content if isinstance(content, dict) else {}
    include = fields.get("include")
    if isinstance(include, str) and depth < 8:
        fields = {**task_fields((path.parent / include).resolve(), depth + 1), **fields}
    return fields
