"""Folders outside of the run directory that a command writes to, and the variable that moves each. Light.

Where nobody knows the home folder (a container with a user id that has no name), and where a folder cannot be written
(a home that belongs to someone else, a disk that is read-only), one error names the variable to set. A command asks
only for the places that it writes to: `plan`, `list` and `--help` need none.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from vr_eval.errors import InputError, Problem
from vr_eval.paths import home

OUT = "Choose another folder, e.g. with --out DIR."

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NOT_A_FOLDER = frozenset({errno.ENOTDIR, errno.EEXIST})


def hub_cache() -> Path:
    """Where `huggingface_hub` keeps models. Raises InputError where nobody knows the home folder."""
    return _told("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") or _hugging_face() / "hub"


def data_cache() -> Path:
    """Where `datasets` keeps data, that of files on this machine too. Raises InputError like ``hub_cache``."""
    return _told("LMMS_EVAL_DATASETS_CACHE", "HF_DATASETS_CACHE") or _hugging_face() / "datasets"


def check_home() -> None:
    """For what trains or keeps features. Raises InputError if ``home()`` is unknown or cannot be written."""
    check_writable(home(), "VR_EVAL_HOME")


def check_data_cache() -> None:
    """For what reads data with `datasets`. Raises InputError if its cache is unknown or cannot be written."""
    check_writable(data_cache(), "HF_DATASETS_CACHE")


def check_hub_cache(models: Sequence[str]) -> None:
    """For what loads `models` of the hub; a cache that has them all need not be writable, and for none it is not used.

    Raises:
        InputError: It is unknown, or lacks one and cannot be written.
    """
    if not models:
        return
    folder = hub_cache()
    if not all(os.path.isdir(folder / f"models--{name.replace('/', '--')}") for name in models):  # noqa: PTH112
        check_writable(folder, "HF_HOME")


def check_temporary() -> None:
    """For what evaluates or draws. Raises InputError if there is no folder for temporary files."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        hint = "Set TMPDIR to a folder that you can write to."
        raise InputError(Problem("there is no folder for temporary files", file="TMPDIR", hint=hint)) from error


def check_all(*checks: Callable[[], None]) -> None:
    """Several of these checks. Raises one InputError with what they found, each thing once."""
    problems: dict[str, Problem] = {}
    for check in checks:
        try:
            check()
        except InputError as error:
            problems |= {problem.render(): problem for problem in error.problems}
    if problems:
        raise InputError(list(problems.values()))


def hint_for(path: Path) -> str:
    """What to do where `path` cannot be written: the variable that moves its folder, or ``--out``."""
    for variable, folder in (("VR_EVAL_HOME", home), ("HF_DATASETS_CACHE", data_cache), ("HF_HOME", hub_cache)):
        try:
            if path.absolute().is_relative_to(folder()):
                return _set(variable)
        except InputError:  # it is unknown, so nothing is in it
            continue
    told = os.environ.get("TMPDIR")  # not `tempfile.gettempdir`, which writes a file, and the disk may be full
    if told and path.absolute().is_relative_to(told):
        return _set("TMPDIR")
    return OUT


def place_of(error: OSError, folder: str | Path) -> Path:
    """The file or folder that `error` names, or else `folder`."""
    return Path(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else folder)


def not_writable(error: OSError, path: str | Path) -> Problem:
    """What keeps `path` from being written, and what to do about it."""
    file, place = str(path), Path(path)
    if error.errno in FULL:
        hint = f"Free some space and run the same command again: what is finished is kept. Or: {hint_for(place)}"
        return Problem("the disk is full (or the quota is used up)", file=file, hint=hint)
    if error.errno in FORBIDDEN:
        what = "this disk is read-only" if error.errno == errno.EROFS else "no permission"
        return Problem(what, file=file, hint=hint_for(place))
    if error.errno == errno.EISDIR:
        return Problem("a folder is in the way of this file", file=file, hint="Move it away, or choose another place.")
    if error.errno in _NOT_A_FOLDER:
        return Problem("a part of this path is a file, not a folder", file=file, hint=hint_for(place))
    return Problem(f"cannot be written: {error.strerror or error}", file=file)


def nearest_existing(folder: Path) -> Path:
    """`folder`, or the nearest one above it that is there, as far as may be seen."""
    # Unlike `Path.exists`, this is False in a folder that may not be entered.
    return next((path for path in (folder, *folder.absolute().parents) if os.path.exists(path)), Path("/"))  # noqa: PTH110


def check_writable(folder: Path, variable: str) -> None:
    """Whether `folder`, which `variable` (or an option) names, can be made and written. Raises InputError if not."""
    existing = nearest_existing(folder)
    if not existing.is_dir():
        message = "this is a file, not a folder" if existing == folder else f"{existing} is a file, not a folder"
        raise InputError(Problem(message, file=str(folder), hint=_set(variable)))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(Problem(f"no permission to write to {existing}", file=str(folder), hint=_set(variable)))


def _hugging_face() -> Path:
    """``HF_HOME``, by the rules of its own library."""
    told = _told("HF_HOME") or ((cache := _told("XDG_CACHE_HOME")) and cache / "huggingface")
    if told:
        return told
    try:
        return Path.home() / ".cache" / "huggingface"
    except RuntimeError as error:
        message = "nobody knows where the caches of Hugging Face are: this user has no home folder"
        raise InputError(Problem(message, file="HF_HOME", hint=_set("HF_HOME (or HOME)"))) from error


def _told(*variables: str) -> Path | None:
    """The folder that the first of these variables names, if one does."""
    for variable in variables:
        text = os.environ.get(variable, "").strip()
        if text:
            try:
                return Path(os.path.expandvars(text)).expanduser().absolute()
            except RuntimeError as error:
                message = "it names the home folder of a user that is not there"
                raise InputError(Problem(message, file=variable, given=text, hint=_set(variable))) from error
    return None


def _set(variable: str) -> str:
    return f"Set {variable} to a folder that you can write to."
