"""`checkpoint.json`: what a checkpoint is, and what its files hold. It is written last. Light: no torch.

A SHA-256 for each file stands in it. A folder without it is unfinished; files that are not named in it are nobody's
business. Checkpoints that were made before hashes were kept have none, and are loaded with safetensors' checks alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from vr_eval.errors import InputError, Problem
from vr_eval.files import write_atomic
from vr_eval.hashes import sha256

MANIFEST = "checkpoint.json"
FILES = "files"
"""Key of the hashes in it."""
_MEND = "Delete the folder and the cell is trained again; what travels with the project, a new checkout brings back."
_RESTORE = "Restore it by a new checkout or installation; `vr-eval micro build` makes another backbone."


class DamagedError(InputError):
    """Files do not hold what they are said to hold."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete checkpoint. Raises InputError where there is none or it cannot be read."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "train the cell again: vr-eval train GRID"
        raise InputError(Problem("no complete checkpoint here", file=str(folder), hint=hint)) from None
    except (OSError, ValueError) as error:
        raise InputError(Problem(f"the manifest cannot be read: {error}", file=str(path), hint=_MEND)) from None
    if not isinstance(manifest, dict):
        raise InputError(Problem("the manifest is no mapping", file=str(path), hint=_MEND))
    return manifest


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint's folder by name; the manifest and hidden files are none of them."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    return {path.name: sha256(path) for path in files if path.name != MANIFEST and not path.name.startswith(".")}


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the files of a checkpoint with the hashes in its manifest, if it has some.

    Raises:
        DamagedError: with every file that is missing, cannot be read or holds something else.
    """
    hashes = manifest.get(FILES, {})
    if not isinstance(hashes, dict) or not all(Path(name).name == name for name in hashes):
        raise DamagedError(Problem("the manifest is damaged", file=str(folder / MANIFEST), key=FILES, hint=_MEND))
    problems = list(_damaged(folder, hashes, MANIFEST, _MEND))
    if problems:
        raise DamagedError(problems)


def check_checkpoints(folders: Iterable[Path]) -> None:
    """Check the files of several checkpoints before anything is done with the first of them.

    Raises:
        DamagedError: with everything that is damaged in any of them.
    """
    problems: list[Problem] = []
    for folder in dict.fromkeys(folders):
        try:
            check_files(folder, read_manifest(folder))
        except InputError as error:
            problems += error.problems
    if problems:
        raise DamagedError(problems)


def write_weights_manifest(folder: Path, names: Iterable[str]) -> None:
    """State beside the folder of a backbone's weights what its files of these names hold."""
    content = {name: sha256(folder / name) for name in names}
    write_atomic(folder.with_suffix(".json"), json.dumps(content, indent=1, sort_keys=True) + "\n")


@lru_cache(maxsize=8)
def check_weights(folder: Path, files: tuple[tuple[str, int, int], ...]) -> None:
    """Whether a backbone's weights are those that are stated beside their folder, if any are.

    Without this, one flipped bit would be another backbone, and every cell would be trained anew. Size and time stand
    in `files`, beside the name of each, so that one process looks only once.

    Raises:
        InputError: with every file that is missing, damaged or not one of them.
    """
    stated = folder.with_suffix(".json")
    if not stated.is_file():
        return
    hashes: dict[str, str] = json.loads(stated.read_text(encoding="utf-8"))
    problems = list(_damaged(folder, hashes, stated.name, _RESTORE))
    message = "this file is none of the embedded backbone's weights"
    problems += [Problem(message, str(folder / name), hint=_RESTORE) for name, *_ in files if name not in hashes]
    if problems:
        raise InputError(problems)


def _damaged(folder: Path, hashes: Mapping[str, str], stated: str, hint: str) -> Iterator[Problem]:
    for name, expected in hashes.items():
        path = folder / name
        try:
            if sha256(path) != expected:
                message = f"this file is damaged: it does not hold what {stated} says (SHA-256)"
                yield Problem(message, file=str(path), hint=hint)
        except OSError as error:
            yield Problem(f"this file cannot be read: {error.strerror}", file=str(path), hint=hint)
