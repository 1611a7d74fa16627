"""The data of tasks: what is wrong with it is said before anything is asked, or about the one question that has it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
from PIL.Image import Image

from vr_eval.errors import Problem
from vr_eval.places import data_cache, not_writable, place_of


def check_files(config: Mapping[str, Any], folder: Path) -> None:
    """lmms-eval resolves a file beside the task only if it exists; if not, the error would name another folder."""
    names = (config.get("dataset_kwargs") or {}).get("data_files") or {}
    for name in names.values() if isinstance(names, Mapping) else ():
        if config["dataset_path"] in ("parquet", "json") and isinstance(name, str) and not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} does not exist")


def commit_of(data: datasets.Dataset) -> str | None:
    """The commit of the hub that data was made from, which `datasets` keeps it under; None for data on this machine."""
    folders = [part for file in data.cache_files for part in Path(file["filename"]).parts]
    return next((name for name in folders if re.fullmatch("[0-9a-f]{40}", name)), None)


def document_hash(document: Any) -> str:
    """A hash of a question's document with its images, as they are in the data; "" where one cannot be read."""
    digest = hashlib.sha256()
    try:
        for part in _parts(document):
            digest.update(part + b"\0")
    except Exception:  # whatever an image decoder raises is told when the question is asked
        return ""
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """What a value holds, in order; of an image its bytes, wherever they are."""
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes):
            yield value["bytes"]
        elif set(value) == {"bytes", "path"} and value["path"]:
            yield Path(value["path"]).read_bytes()
        else:
            for name, entry in value.items():
                yield str(name).encode(errors="surrogatepass")
                yield from _parts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _parts(entry)
    elif isinstance(value, Image):
        yield f"{value.mode} {value.size}".encode()
        yield value.tobytes()
    else:
        yield value if isinstance(value, bytes) else repr(value).encode(errors="surrogatepass")


def no_data(task: str, file: Path, error: Exception) -> Problem:
    """The problem of a task whose data cannot be loaded, with the reason at the root of `error`."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, PermissionError) and not str(cause.filename or "").startswith(str(file.parent)):
        return not_writable(cause, place_of(cause, data_cache()))
    first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    hint = "Data of the hub is downloaded once, by `vr-eval fetch` where there is network; restore files that it names."
    if isinstance(cause, KeyError):
        first = str(cause)
        hint = "Its data or lmms-eval's definition of it has changed: vr-eval knows those of lmms-eval 0.7.3."
    return Problem(f"the data of the task {task} cannot be loaded: {first}", file=str(file), hint=hint)


def no_judge(task: str, missing: list[str]) -> Problem:
    """The problem of a task that another model judges, which cannot be asked."""
    return Problem(
        f"the task {task} is scored by a model behind an API, which costs money and changes over time",
        allowed="chartqa" if task.startswith("charxiv") else None,
        hint=f"If you want that, set {', '.join(missing)} in the environment.",
    )
