"""What a task asks, by content: its definition and its data, so that a change under the same version is noticed.

A result is named by its task's version (`metadata.version`), and a comment must not orphan it: so this is no part of an
identity. It is kept beside a cell's answers (`tasks.json`); where it has become another, they are asked again. Official
tasks are what lmms-eval's release says, and data of the hub cannot be looked at without network: neither is covered.
"""

from __future__ import annotations

import hashlib
import io
import json
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from vr_eval.catalog.official_tasks import packaged_files
from vr_eval.catalog.tasks import Folders, SafeLoader, included_files, task_fields, task_files
from vr_eval.hashes import sha256, spread

Content = Mapping[str, str]
"""Hashes of a task's `definition` and `data`; no entry for what is not covered."""
WORDS = {"definition": "its definition", "data": "its data"}
_WHOLE, _PLACES, _BLOCK = 16_000_000, 64, 65_536  # bytes
_MOST_FILES = 2_000


def task_content(task: str, folders: Folders = ()) -> dict[str, str]:
    """Hashes of what a task that is defined asks.

    The definition is its YAML files and the Python beside them, without comments. The data are the files on this
    machine that it names: all of their bytes, or of files over 16 MB those at 64 places and their size; of more than
    2,000 files names and sizes.

    Raises:
        InputError: The task's file cannot be read.
    """
    file = task_files(folders)[task]
    if packaged_files().get(task) == file:
        return {}
    definitions = included_files(file)
    code = sorted({path for one in definitions for path in one.parent.glob("*.py")})
    content = {"definition": _digest(_definition(path) for path in (*definitions, *code))}
    files = sorted(set(_data_files(task_fields(file), file.parent)))
    if files:
        content["data"] = _digest(_names(files) if len(files) > _MOST_FILES else map(_file, files))
    return content


def changed(before: Mapping[str, Content], now: Mapping[str, Content]) -> dict[str, str]:
    """The tasks of `now` whose content was another, with what of it, in words; what was not kept is not compared."""
    found = {}
    for task, content in now.items():
        kept = before.get(task, {})
        parts = [WORDS[part] for part in WORDS if part in kept and kept[part] != content.get(part)]
        if parts:
            found[task] = " and ".join(parts)
    return found


def asked_again(what: str) -> str:
    """What a change means for answers that are there, in words."""
    return "what is another question now is asked again" if what == WORDS["data"] else "it is asked again"


def _data_files(fields: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """The files on this machine that hold a task's data; patterns stand for the files that they fit."""
    named = [str(fields["dataset_path"])] if fields.get("dataset_path") else []
    kwargs = fields.get("dataset_kwargs")
    if isinstance(kwargs, dict):
        named += _texts([kwargs.get("data_files"), kwargs.get("data_dir")])
    for name in named:
        beside, here = folder / name, Path(name)
        found = beside if beside.exists() or not here.exists() else here
        if found.is_dir():
            yield from (one for one in found.rglob("*") if one.is_file())
        elif found.exists():
            yield found
        elif any(mark in name for mark in "*?[") and not here.is_absolute():
            yield from (one for one in folder.glob(name) if one.is_file())


def _texts(value: Any) -> Iterator[str]:
    """Every text in lists and mappings of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _texts(entry)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _names(files: list[Path]) -> Iterator[str]:
    return (f"{path.name}\0{path.stat().st_size}" for path in files)


def _file(path: Path) -> str:
    status = path.stat()
    return f"{path.name}\0{status.st_size}\0{_hash_of(path, status.st_size, status.st_mtime_ns)}"


@lru_cache(maxsize=4096)
def _hash_of(path: Path, size: int, modified: int) -> str:
    # Size and time are in the arguments only to notice a change: a plan asks once for each of its cells.
    if size <= _WHOLE:
        return sha256(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in spread(file, _PLACES, _BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _definition(path: Path) -> str:
    status = path.stat()
    return f"{path.name}\0{_meaning(path, status.st_size, status.st_mtime_ns)}"


@lru_cache(maxsize=1024)
def _meaning(path: Path, size: int, modified: int) -> str:
    """A definition without its comments."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".py":
        return _without_comments(text)
    return json.dumps(_plain(yaml.compose(text, Loader=SafeLoader)), sort_keys=True)


def _without_comments(source: str) -> str:
    lines = source.splitlines()
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
    except (tokenize.TokenError, SyntaxError):  # no Python: that is said when it is loaded
        return source
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _plain(node: yaml.Node | None) -> Any:
    """A YAML document with its tags, as JSON; the version is what results are named by already."""
    if isinstance(node, yaml.MappingNode):
        return {str(_plain(key)): _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(entry) for entry in node.value]
    return None if node is None else f"{node.tag} {node.value}"
