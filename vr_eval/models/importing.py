"""Official checkpoints under our names: `vr-eval import`, and their way into a model.

Files are safetensors or PyTorch's, whole or in shards with an index. PyTorch files are read as weights only, so that
none of their code runs. One shard is in memory at a time.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vr_eval.errors import InputError, Problem, nearest
from vr_eval.files import atomic_target, write_atomic
from vr_eval.models.lvlm import LVLM
from vr_eval.models.official_tensors import (
    NEWLINE,
    SOURCES,
    computed_anew,
    expected_shapes,
    in_numbers,
    our_name,
    solve_sizes,
)

MANIFEST = "import.json"
"""Written last: a folder without it is unfinished."""

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE = ("model.safetensors", "pytorch_model.bin", "mm_projector.safetensors", "mm_projector.bin")
_TORCH = (".bin", ".pt", ".pth")


@dataclass(frozen=True)
class Imported:
    """What an import wrote."""

    folder: Path
    tensors: int
    sizes: Mapping[str, int]
    """The sizes of the model, in the words of `official_tensors`' tables."""
    unused: tuple[str, ...]
    """Tensors that were carried along although no `LVLM` has them but one that cuts images into tiles."""

    def to_text(self) -> str:
        """For a terminal."""
        sizes = ", ".join(f"{word} {size}" for word, size in sorted(self.sizes.items()))
        lines = [f"{self.tensors} tensors written to {self.folder} ({sizes})"]
        lines += [f"carried along, used for images in tiles alone: {name}" for name in self.unused]
        return "\n".join(lines)


def import_official(source: str, path: Path, out: Path) -> Imported:
    """Write the tensors of an official checkpoint to the folder `out` under our names.

    Args:
        source: whose checkpoint it is, one of `SOURCES`.
        path: a weights file, an index of shards, or a folder that holds either, with its config.json or without.

    Raises:
        InputError: files missing or unreadable; any tensor missing, unexpected or misshapen (all are named); `out`
            holds something already.
    """
    if source not in SOURCES:
        close = nearest(source, SOURCES)
        raise InputError(Problem("unknown source", given=source, allowed=", ".join(SOURCES), nearest=close))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(Problem("there is something here already", "--out", given=str(out), allowed="a new folder"))
    shards = find_shards(path)
    held = {shard: _read(shard, lambda name, tensor: tuple(tensor.shape)) for shard in shards}
    names = _names(shards, held, path)
    shapes = {name: held[shard][name] for name, shard in names.items() if not computed_anew(name)}
    sizes = _check(source, shapes, _config(path), path)
    for number, shard in enumerate(shards, start=1):
        tensors = _read(shard, lambda name, tensor: tensor.clone().contiguous())
        mine = {name: tensor for name, tensor in tensors.items() if names.get(name) == shard and name in shapes}
        with atomic_target(out / f"model-{number:05d}-of-{len(shards):05d}.safetensors") as temporary:
            save_file({str(our_name(source, name)): tensor for name, tensor in mine.items()}, temporary)
    unused = (NEWLINE,) if f"model.{NEWLINE}" in shapes else ()
    manifest = {"source": source, "from": path.name, "tensors": len(shapes), "sizes": sizes, "unused": list(unused)}
    write_atomic(out / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return Imported(out, len(shapes), sizes, unused)


def load_imported(model: LVLM, folder: Path) -> None:
    """Put the tensors that `import_official` wrote into `model`, in its dtype.

    Every parameter of the methods must be there, and of the tower and the decoder all or none (a file of the projector
    alone leaves both as they are). A newline is taken by a model that has one, and left where it has none.

    Raises:
        InputError: unfinished folder; any tensor missing, unexpected or misshapen (all are named).
    """
    if not (folder / MANIFEST).is_file():
        raise InputError(Problem("no complete import here", file=str(folder), hint="run vr-eval import again"))
    tensors: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("model-*.safetensors")):
        tensors |= _read(shard, lambda name, tensor: tensor)
    own = model.state_dict()
    if NEWLINE not in own:
        tensors.pop(NEWLINE, None)
    parts = {name.partition(".")[0] for name in tensors} | {"projector", "refusion"}
    missing = sorted(name for name in own if name.partition(".")[0] in parts and name not in tensors)
    problems = [Problem("missing tensor", str(folder), key=n, allowed=_words(tuple(own[n].shape))) for n in missing]
    for name, tensor in tensors.items():
        if name not in own:
            problems.append(Problem("the model has no such tensor", str(folder), key=name, nearest=nearest(name, own)))
        elif own[name].shape != tensor.shape:
            problems.append(_misshapen(str(folder), name, tuple(tensor.shape), tuple(own[name].shape)))
    if problems:
        raise InputError(problems)
    model.load_state_dict(tensors, strict=False)


def find_shards(path: Path) -> list[Path]:
    """The weights files that `path` stands for, in order.

    Raises:
        InputError: there are none, or an index names a file that is not there or lies elsewhere.
    """
    if path.is_file():
        return _of_index(path) if path.name.endswith(".index.json") else [path]
    if not path.is_dir():
        raise InputError(Problem("there is no such file or folder", given=str(path)))
    for name in _INDICES:
        if (path / name).is_file():
            return _of_index(path / name)
    for name in _WHOLE:
        if (path / name).is_file():
            return [path / name]
    found = sorted(path.glob("*.safetensors")) or sorted(p for p in path.iterdir() if p.suffix in _TORCH)
    if not found:
        looked = ", ".join((*_INDICES, *_WHOLE))
        raise InputError(Problem("no weights in this folder", str(path), allowed=f"{looked}, or other such files"))
    return found


def _of_index(index: Path) -> list[Path]:
    files = sorted(set(_weight_map(index).values()))
    # A name with a folder in it could reach any file of this machine.
    bad = [name for name in files if Path(name).name != name or not (index.parent / name).is_file()]
    if bad or not files:
        message = "the index names a file that is not beside it" if bad else "the index names no file"
        raise InputError([Problem(message, str(index), given=name) for name in bad] or Problem(message, str(index)))
    return [index.parent / name for name in files]


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(Problem(f"not an index of shards: {error}", str(index))) from None


def _config(path: Path) -> dict[str, Any]:
    """The config.json beside the weights; empty where there is none, or none that can be read."""
    try:
        config = json.loads(((path if path.is_dir() else path.parent) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _read(shard: Path, take: Callable[[str, Tensor], Any]) -> dict[str, Any]:
    """What `take` makes of every tensor of a file."""
    try:
        if shard.suffix == ".safetensors":
            with safe_open(shard, framework="pt") as file:
                return {name: take(name, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (no mapping)
        content = torch.load(shard, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(Problem(f"cannot be read as weights: {reason}", str(shard))) from error
    strange = "it holds no mapping" if not isinstance(content, dict) else None
    if isinstance(content, dict):
        strange = next((str(name) for name, value in content.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        raise InputError(Problem("not a mapping of names to tensors", str(shard), given=strange))
    return {str(name): take(str(name), value) for name, value in content.items()}


def _names(shards: list[Path], held: Mapping[Path, Mapping[str, object]], path: Path) -> dict[str, Path]:
    """In which shard every tensor lies."""
    found: dict[str, Path] = {}
    problems = []
    for shard in shards:
        for name in held[shard]:
            if name in found:
                problems.append(Problem(f"the tensor is in {found[name].name} as well", str(shard), key=name))
            found[name] = shard
    if problems:
        raise InputError(problems)
    return found


def _check(
    source: str, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, object], path: Path
) -> dict[str, int]:
    """The sizes of the checkpoint; raises for every tensor that does not fit."""
    expected = expected_shapes(source, shapes, config)
    sizes = solve_sizes(expected, shapes)
    missing = [name for name in expected if name not in shapes]
    problems = []
    for name in missing:
        shape = in_numbers(expected[name], sizes)
        problems.append(Problem("missing tensor", str(path), key=name, allowed=_words(shape) if shape else None))
    for name, shape in shapes.items():
        if name in expected:
            right = in_numbers(expected[name], sizes)
            if right != shape:
                problems.append(_misshapen(str(path), name, shape, right))
        elif not str(our_name(source, name)).startswith("vision_tower."):
            problems.append(Problem("unexpected tensor", str(path), key=name, nearest=nearest(name, missing)))
    if problems:
        raise InputError(problems)
    return sizes


def _misshapen(file: str, name: str, shape: tuple[int, ...], right: tuple[int, ...] | None) -> Problem:
    allowed = _words(right) if right else "another number of dimensions"
    return Problem("misshapen tensor", file, key=name, given=_Shape(shape), allowed=allowed)


class _Shape(tuple[int, ...]):
    """Printed as `64 x 32`."""

    def __repr__(self) -> str:
        return _words(self)


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
