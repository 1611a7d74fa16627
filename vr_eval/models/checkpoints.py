"""Checkpoints of cells: safetensors, processor and a `checkpoint.json` that says what they are.

`checkpoint.json` is written last: a folder without it is unfinished and is never loaded.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoProcessor

from vr_eval.catalog.backbone import Loading, Source
from vr_eval.checksums import FILES, MANIFEST, check_files, file_hashes, read_manifest
from vr_eval.errors import InputError, Problem
from vr_eval.files import write_atomic
from vr_eval.methods.registry import METHODS, NONE, PACKAGES
from vr_eval.models.config import LVLMConfig
from vr_eval.models.generation import only_tokens
from vr_eval.models.hub import WHOLE, arguments_of, commits, pinned
from vr_eval.models.lvlm import LVLM
from vr_eval.models.processor import Processor


def save_checkpoint(
    model: LVLM, processor: Processor, folder: Path, manifest: dict[str, Any], dtype: torch.dtype = torch.float16
) -> None:
    """Write `model` in `dtype` with its processor; `manifest` makes it complete, with the hashes of all files added.

    The model itself is unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=state)
    if hasattr(processor.tokenizer, "legacy"):
        # transformers forgets it, and Llama's tokenizer would then split words behind control tokens in another way.
        processor.tokenizer.init_kwargs["legacy"] = processor.tokenizer.legacy
    processor.save_pretrained(folder)
    packages = {name: PACKAGES[name] for name in _methods(model.config) if name in PACKAGES}
    content = {**manifest, **({"packages": packages} if packages else {}), FILES: file_hashes(folder)}
    write_atomic(folder / MANIFEST, json.dumps(content, indent=1, sort_keys=True) + "\n")


def save_reference(source: Source, folder: Path, manifest: dict[str, Any]) -> None:
    """Make `folder` the checkpoint of a model that is `source` itself: it says so, and holds no weights.

    From then on it is the commit that its branch stands for now. `manifest` may name the chat `template` for a source
    that brings none.

    Raises:
        InputError: there is no such model.
    """
    from vr_eval.models.pretrained import named_tower

    tower = named_tower(source)
    parts = {"source": source, **({"tower": tower} if tower is not None else {})}
    content = {
        **manifest,
        **{key: dataclasses.asdict(pinned(part)) for key, part in parts.items()},
        "sources": commits(parts.values()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / MANIFEST, json.dumps(content, indent=1, sort_keys=True) + "\n")


def open_model(
    name: str, revision: str = "main", loading: Loading | None = None, expect: str | None = None
) -> tuple[LVLM, Processor]:
    """The model of a checkpoint's folder, or of a published checkpoint on the hub or in a folder; eval mode.

    Raises:
        InputError: there is neither, or it cannot be loaded.
    """
    folder = Path(name)
    if expect is not None or (folder / MANIFEST).is_file():
        return load_checkpoint(folder, expect, loading)
    from vr_eval.models.pretrained import load_pretrained

    return load_pretrained(Source(name, revision), loading)


def load_checkpoint(folder: Path, expect: str | None = None, loading: Loading | None = None) -> tuple[LVLM, Processor]:
    """The model (training version, in eval mode, float32 by default) and its processor.

    Args:
        folder: what `save_checkpoint` or `save_reference` wrote.
        expect: the checkpoint id that it must carry; None takes any.
        loading: how its weights are loaded.

    Raises:
        InputError: unfinished, damaged, of another cell, or with tensors that do not fit its own configuration.
    """
    manifest = read_manifest(folder)
    if expect is not None and manifest.get("checkpoint_id") != expect:
        raise InputError(
            Problem(
                "this checkpoint is of another cell",
                file=str(folder),
                key="checkpoint_id",
                given=manifest.get("checkpoint_id"),
                allowed=expect,
                hint="move the folder away; the cell will be trained again",
            )
        )
    loading = loading or Loading()
    source = _part(folder, manifest, "source")
    if source is not None:
        from vr_eval.models.pretrained import load_pretrained

        return load_pretrained(source, loading, _part(folder, manifest, "tower"), manifest.get("template"))
    check_files(folder, manifest)
    arguments = arguments_of(loading, WHOLE)
    try:
        config = LVLMConfig.from_pretrained(folder)
        _check_installed(config, folder, manifest)
        model, report = LVLM.from_pretrained(folder, config=config, output_loading_info=True, **arguments)
        processor = AutoProcessor.from_pretrained(folder)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        hint = "delete the folder; the cell will be trained again, or restored by a new checkout"
        problem = Problem(f"the checkpoint cannot be loaded: {_first_line(error)}", file=str(folder), hint=hint)
        raise InputError(problem) from error
    wrong = [f"{kind.replace('_keys', '')}: {sorted(map(str, keys))}" for kind, keys in report.items() if keys]
    if wrong:
        raise InputError(Problem("the weights do not fit the model: " + "; ".join(wrong), file=str(folder)))
    model.generation_config = only_tokens(model.generation_config)
    return model.eval(), processor


def _methods(config: LVLMConfig) -> list[str]:
    """The names in its seams, empty ones left out."""
    return [name for name in (config.projector, config.refusion, config.pruning, config.image) if name != NONE]


def _check_installed(config: LVLMConfig, folder: Path, manifest: dict[str, Any]) -> None:
    """A checkpoint may hold the method of a package that is not here: it says which."""
    for name in _methods(config):
        if name not in METHODS:
            package = manifest.get("packages", {}).get(name)
            hint = f"Install it: pip install {package}" if package else None
            raise InputError(Problem(f"the method {name} is not installed", str(folder), key=name, hint=hint))


def _part(folder: Path, manifest: dict[str, Any], key: str) -> Source | None:
    """What a checkpoint without weights stands for: its `source`, or the `tower` of an original one."""
    try:
        return Source(**manifest[key]) if key in manifest else None
    except TypeError as error:
        problem = Problem(f"the manifest is damaged: {error}", str(folder / MANIFEST), key=key)
        raise InputError(problem) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
