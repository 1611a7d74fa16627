"""Checkpoints of cells: safetensors, processor and a `checkpoint.json` that says what they are.

`checkpoint.json` is written last: a folder without it is unfinished and is never loaded.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import AutoProcessor

from vr_eval.catalog.backbone import Loading, Source
from vr_eval.checksums import FILES, MANIFEST, check_files, file_hashes, read_manifest
from vr_eval.config.cell import filled
from vr_eval.errors import InputError, Problem
from vr_eval.files import write_atomic
from vr_eval.methods.registry import METHODS, PACKAGES
from vr_eval.methods.spec import MethodFile
from vr_eval.models.config import LVLMConfig
from vr_eval.models.generation import only_tokens
from vr_eval.models.hub import WHOLE, arguments_of, commits, explained, pinned
from vr_eval.models.lvlm import LVLM
from vr_eval.models.processor import Processor

METHOD_FILES = "method_files"
"""Key in `checkpoint.json` of the files that its methods stand in, by method: their name and SHA-256."""


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
    content = {**manifest, **_origins(model.config), FILES: file_hashes(folder)}
    write_atomic(folder / MANIFEST, json.dumps(content, indent=1, sort_keys=True) + "\n")


def save_reference(source: Source, folder: Path, manifest: dict[str, Any]) -> None:
    """Make `folder` the checkpoint of a model that is `source` itself: it says so, and holds no weights.

    From then on it is the commit that its branch stands for now. `manifest` may name the chat `template` for a source
    that brings none.

    Raises:
        InputError: there is no such model.
    """
    # Imported where it is needed, here and below: most checkpoints are ours, and do not wait for it.
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
    """The model of a checkpoint, of ours, LLaVA's or InternVL's, in a folder or on the hub; eval mode.

    Raises:
        InputError: there is neither, or it cannot be loaded.
    """
    folder = Path(name)
    if expect is not None or (folder / MANIFEST).is_file():
        return load_checkpoint(folder, expect, loading)
    from vr_eval.models.pretrained import config_of, load_pretrained

    source = pinned(Source(name, revision))
    if config_of(source).get("model_type") != LVLMConfig.model_type:
        return load_pretrained(source, loading)
    if not folder.is_dir():
        with explained(source, "the checkpoint"):
            folder = Path(snapshot_download(source.name, revision=source.revision))
    return load_checkpoint(folder, loading=loading)


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
        _check_methods(config, folder, manifest)
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


def _origins(config: LVLMConfig) -> dict[str, dict[str, Any]]:
    """Where the methods of a model come from that are none of this project's: packages, and files with their hashes."""
    names = filled(config)
    files = {name: file for name in names if (file := METHODS[name].file) is not None}
    origins: dict[str, dict[str, Any]] = {
        "packages": {name: PACKAGES[name] for name in names if name in PACKAGES},
        METHOD_FILES: {name: {"name": Path(file.path).name, "sha256": file.hash} for name, file in files.items()},
    }
    return {key: found for key, found in origins.items() if found}


def _check_methods(config: LVLMConfig, folder: Path, manifest: dict[str, Any]) -> None:
    """A checkpoint may hold the method of a package or a file that is not here, or is another one: it says which."""
    for name in filled(config):
        stated = _stated_file(folder, manifest, name)
        here = METHODS[name].file if name in METHODS else None
        if stated is not None and stated["sha256"] != (here.hash if here is not None else None):
            _refuse_file(name, stated, here, folder)
        if name not in METHODS:
            package = _stated_package(folder, manifest, name)
            hint = f"Install it: pip install {package}" if package else None
            raise InputError(Problem(f"the method {name} is not installed", str(folder), key=name, hint=hint))
        if stated is None and here is not None:
            message = f"the method {name} of this checkpoint is not the one in {here.path}"
            raise InputError(Problem(message, str(folder), key=name))


def _refuse_file(name: str, stated: dict[str, str], here: MethodFile | None, folder: Path) -> None:
    """The method file that a checkpoint was trained with is not loaded, or was changed since. Raises InputError."""
    file = f"{stated['name']} (sha256 {stated['sha256'][:12]})"
    message = f"the method {name} stands in the file {file}, which is not loaded"
    hint = f"Name it: methods: [{stated['name']}] in a grid, method_file={stated['name']} among lmms-eval's model_args."
    if here is not None:
        message = f"the method {name} stood in the file {file}, and {here.path} holds something else ({here.hash[:12]})"
        hint = "Bring the file back to what it was, or train the cell again."
    raise InputError(Problem(message, str(folder), key=name, hint=hint))


def _stated_file(folder: Path, manifest: dict[str, Any], name: str) -> dict[str, str] | None:
    """Name and hash of the file that a method of a checkpoint stood in; None if it stood in none."""
    files = manifest.get(METHOD_FILES, {})
    stated = files.get(name) if isinstance(files, dict) else files
    if stated is None:
        return None
    if not isinstance(stated, dict) or not all(isinstance(stated.get(key), str) for key in ("name", "sha256")):
        raise InputError(Problem("the manifest is damaged", str(folder / MANIFEST), key=METHOD_FILES))
    return stated


def _stated_package(folder: Path, manifest: dict[str, Any], name: str) -> str | None:
    """The package of a checkpoint's method, as pip takes it; None if it was none of a package."""
    packages = manifest.get("packages", {})
    if not isinstance(packages, dict) or not all(isinstance(package, str) for package in packages.values()):
        raise InputError(Problem("the manifest is damaged", str(folder / MANIFEST), key="packages"))
    return packages.get(name)


def _part(folder: Path, manifest: dict[str, Any], key: str) -> Source | None:
    """What a checkpoint without weights stands for: its `source`, or the `tower` of an original one."""
    try:
        return Source(**manifest[key]) if key in manifest else None
    except TypeError as error:
        problem = Problem(f"the manifest is damaged: {error}", str(folder / MANIFEST), key=key)
        raise InputError(problem) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
