"""The identity of a cell: a hash of everything that changes its checkpoint or its result, and of nothing else.

Code is represented by version numbers that are raised by hand, not by file hashes: a comment must not orphan a
checkpoint. Labels, the order of keys and options that merely spell out a default do not count either.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vr_eval.catalog.backbones import weights_hash
from vr_eval.catalog.fields import info_of
from vr_eval.catalog.frozen import FrozenDict
from vr_eval.catalog.recipe import STAGES, Recipe, Stage
from vr_eval.catalog.tasks import task_version
from vr_eval.config.backbone import described_identity
from vr_eval.config.cell import Cell
from vr_eval.methods.options import Options

if TYPE_CHECKING:
    from vr_eval.config.grid import Grid

TRAINING_VERSION = 3
"""Raised when training computes something else from the same recipe and data."""

CONVERSATIONS_VERSION = 2
"""Raised when conversations that a recipe names are read or written otherwise; the embedded suites do not count it."""

EVALUATION_VERSION = 1
"""Raised when prompts, generation or scoring change for all tasks."""


def checkpoint_identity(cell: Cell) -> dict[str, Any]:
    """What the checkpoint of ``cell`` depends on; training-free methods are not part of it."""
    return {
        "training": TRAINING_VERSION,
        "backbone": cell.backbone,
        "weights": f"random, in place of {weights_hash(cell.spec)}" if cell.random_weights else weights_hash(cell.spec),
        **({"described": described_identity(cell.spec)} if cell.described else {}),
        "methods": method_identities(cell, trainable=True),
        "ratio": cell.ratio,
        "recipe": _recipe(cell) if cell.trained else None,
        "data": cell.spec.data_version,
        "seed": cell.seed,
    }


def cell_identity(cell: Cell, grid: Grid) -> dict[str, Any]:
    """What the result of ``cell`` in ``grid`` depends on.

    Raises:
        InputError: A task has no file, or states no version.
    """
    loading = grid.loading
    rounded = (loading.dtype, loading.bits) != ("float32", None)
    return {
        "evaluation": EVALUATION_VERSION,
        "checkpoint": checkpoint_id(cell),
        "methods": method_identities(cell, trainable=False),
        "tasks": sorted([task, task_version(task, grid.tasks_path)] for _, task in grid.tasks),
        "limit": grid.limit,
        # Before there were rules for all, backbones with sources went by those of their checkpoints.
        **({"decoding": grid.decoding.stated} if grid.decoding.stated or cell.spec.sources else {}),
        **({"loading": {"dtype": loading.dtype, "bits": loading.bits}} if rounded else {}),
    }


def checkpoint_id(cell: Cell) -> str:
    """16 hex digits that name the checkpoint of ``cell``."""
    return digest(checkpoint_identity(cell))


def cell_id(cell: Cell, grid: Grid) -> str:
    """16 hex digits that name the result of ``cell`` in ``grid`` (its folder in the run directory)."""
    return digest(cell_identity(cell, grid))


def digest(identity: dict[str, Any]) -> str:
    """The first 16 hex digits of the SHA-256 of ``identity`` as canonical JSON (sorted keys, no spaces, ASCII)."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]


def flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without mappings for its stages, as ``flat_name`` says; one that is flat already stays as it is."""
    found: dict[str, Any] = {}
    for name, value in recipe.items():
        staged = name in STAGES and isinstance(value, Mapping)
        found |= {flat_name(name, key): own for key, own in value.items()} if staged else {name: value}
    return found


def flat_name(stage: str, key: str) -> str:
    """The name that a key of a stage has in identities. The rule: a recipe enters them flat, as it was first written.

    ``steps`` of ``stage1`` is ``stage1_steps``, ``lr_projector`` of it ``lr_projector_stage1``; the rates that stage 2
    alone has are by themselves.
    """
    if key in ("lr_decoder", "lr_tower"):
        return key
    return f"{key}_{stage}" if key == "lr_projector" else f"{stage}_{key}"


def method_identities(cell: Cell, *, trainable: bool) -> dict[str, Any]:
    """Each method of `cell` by seam: of the checkpoint those that are trained, of the result alone the others."""
    return {
        method.seam: {
            "name": method.name,
            "version": method.version,
            "options": _stated(cell.resolved(method.name)),
            **({"file": method.file.hash} if method.file else {}),
        }
        for method in cell.methods
        if method.trainable == trainable
    }


def _recipe(cell: Cell) -> dict[str, Any]:
    """All that changes what is trained: rates of the cell's own methods, data by content and not by where they lie."""
    recipe, methods = cell.recipe, {method.name for method in cell.methods if method.trainable}
    own = {name: rate for name, rate in recipe.lr_methods.items() if name in methods}
    stated = flat(_stated(dataclasses.replace(recipe, lr_methods=FrozenDict(own))))
    for name in ("stage1_image_folder", "stage2_image_folder", "broken"):
        stated.pop(name, None)
    for stage in (1, 2):
        data = recipe.data(stage)
        if data is None:
            stated.pop(f"stage{stage}_template", None)
        else:
            template = data.template or cell.spec.template
            stated |= {f"stage{stage}_data": data.identity(), f"stage{stage}_template": template}
            stated["conversations"] = CONVERSATIONS_VERSION
    return stated


def _stated(options: Options | Recipe | Stage) -> dict[str, Any]:
    """All fields, but those that came later only where they differ from their default: old checkpoints stay valid."""
    stated = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Stage):
            stated[field.name] = _stated(value)
        elif not info_of(field).later or value != field.default:
            stated[field.name] = value
    return stated
