"""The key ``backbone`` of a grid file: the name of a backbone, or the description of one that no name stands for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.backbones import BACKBONES, BackboneSpec
from vr_eval.catalog.tiling import TILINGS, AnyRes, Tiling
from vr_eval.config.backbone_keys import MODEL, DescribedBackbone
from vr_eval.config.document import NO_PATH, Node, Problems, beside
from vr_eval.config.keys import read_keys
from vr_eval.config.schema import NAME_ALLOWED, NAME_PATTERN
from vr_eval.errors import nearest
from vr_eval.methods.registry import projector_options

_HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?@[^\s@]{1,200}", re.ASCII)
# What is loaded: a whole checkpoint, or two parts in its place.
_SOURCES = ("checkpoint", "tower", "decoder")


def read_backbone(root: Node, problems: Problems) -> BackboneSpec | None:
    """The backbone that the key ``backbone`` of ``root`` names or describes; ``None`` if there is none."""
    node = root.entries.get("backbone")
    allowed = ", ".join(BACKBONES)
    if node is None or node.value is None:
        problems.add(node or root, "backbone", "must be given", allowed=allowed)
    elif isinstance(node.value, dict):
        return _described(node, problems)
    elif isinstance(node.value, str) and node.value in BACKBONES:
        return BACKBONES[node.value]
    else:
        close = nearest(node.value, BACKBONES) if isinstance(node.value, str) else None
        hint = "A model of your own is described by a mapping: {name: .., from: .., checkpoint: ..}."
        problems.add(node, "backbone", "unknown backbone", given=node.plain, allowed=allowed, nearest=close, hint=hint)
    return None


def described_row(spec: BackboneSpec) -> dict[str, Any]:
    """The mapping that describes ``spec``, nothing left out: what a grid file holds, in plain values."""
    row: dict[str, Any] = {"name": spec.name, "from": spec.preset}
    for key in _SOURCES:
        source = getattr(spec, key)
        if source is not None:
            row[key] = source.name if Path(source.name).is_absolute() else str(source)
    fields = [field.name for field in dataclasses.fields(DescribedBackbone)]
    row |= {key: getattr(spec, key) for key in fields if key not in ("name", "dtype", *_SOURCES)}
    return row | {"tiling": spec.tiling.row if spec.tiling is not None else None, "dtype": spec.loading.dtype}


def described_identity(spec: BackboneSpec) -> dict[str, Any]:
    """What of a description changes results: all but its name, where weights come from and in which type they load."""
    return {key: value for key, value in described_row(spec).items() if key not in ("name", "from", "dtype", *_SOURCES)}


def _described(node: Node, problems: Problems) -> BackboneSpec | None:
    before = len(problems.by_text)
    given = read_keys(DescribedBackbone, node, "backbone", problems, ("from", "tiling"))
    preset = _preset(node, problems)
    _check_name(node, given, problems)
    changes: dict[str, Any] = {key: value for key, value in given.items() if key not in ("dtype", *_SOURCES)}
    if preset is None:
        return None
    changes |= _sources(node, given, preset, problems)
    if "dtype" in given:
        changes["loading"] = dataclasses.replace(preset.loading, dtype=given["dtype"])
    if "tiling" in node.entries:
        image_px = given.get("image_px", preset.image_px)
        changes["tiling"] = _tiling(node.entries["tiling"], preset.tiling, image_px, problems)
    if len(problems.by_text) > before:
        return None
    summary = f"described in a grid file, the rest as in {preset.name}"
    spec = dataclasses.replace(preset, **{**changes, "summary": summary, "preset": preset.name})
    _check_sizes(spec, node, problems)
    return spec if len(problems.by_text) == before else None


def _preset(node: Node, problems: Problems) -> BackboneSpec | None:
    """The backbone that ``from`` names: one whose weights are not part of the project."""
    item = node.entries.get("from")
    names = [name for name, spec in BACKBONES.items() if spec.sources]
    if item is not None and item.value in names:
        return BACKBONES[str(item.value)]
    allowed = ", ".join(names)
    if item is None or item.value is None:
        problems.add(item or node, "backbone.from", "must be given", allowed=allowed)
        return None
    close = nearest(item.value, names) if isinstance(item.value, str) else None
    message = "no backbone of this name has weights to replace"
    problems.add(item, "backbone.from", message, given=item.plain, allowed=allowed, nearest=close)
    return None


def _check_name(node: Node, given: Mapping[str, Any], problems: Problems) -> None:
    item, name = node.entries.get("name"), given.get("name")
    if item is None:
        problems.add(node, "backbone.name", "must be given", allowed=NAME_ALLOWED)
    elif name is not None and not re.fullmatch(NAME_PATTERN, name):
        problems.add(item, "backbone.name", "cannot name a backbone", given=name, allowed=NAME_ALLOWED)
    elif name in BACKBONES:
        hint = "Results are told apart by it. To use that backbone as it is, write its name alone."
        problems.add(item, "backbone.name", "this name is taken", given=name, hint=hint)


def _sources(
    node: Node, given: Mapping[str, Any], preset: BackboneSpec, problems: Problems
) -> dict[str, Source | None]:
    """What is loaded in place of the preset's; a checkpoint and parts exclude each other."""
    named = [key for key in _SOURCES if given.get(key) is not None]
    if not named:
        return {}
    if "checkpoint" in named and len(named) > 1:
        other = named[1]
        message = f"checkpoint and {other} exclude each other: a checkpoint has tower and decoder in it"
        problems.add(node.entries[other], f"backbone.{other}", message, hint="Keep one of them.")
        return {}
    if "checkpoint" not in named and preset.checkpoint is not None:
        for key in ("tower", "decoder"):
            if key not in named:
                message = f"must be given beside {named[0]}: {preset.name} is one checkpoint and has no {key} to take"
                problems.add(node.entries[named[0]], f"backbone.{key}", message, allowed=MODEL)
    read = {key: _source(node.entries[key], f"backbone.{key}", problems) for key in named}
    if "checkpoint" in named:
        return {"tower": None, "decoder": None, **read}
    return {"checkpoint": None, **read}


def _source(node: Node, key: str, problems: Problems) -> Source | None:
    """A folder, relative to the file that names it, or a model of the hub."""
    text = str(node.value)
    try:
        path = beside(node, text)
        found, folder = path.exists(), path.is_dir()
        pinned = "@" in text and not found and beside(node, text.rpartition("@")[0]).is_dir()
    except NO_PATH as error:
        problems.add(node, key, f"this names no model: {error}", given=text, allowed=MODEL)
        return None
    if pinned:
        problems.add(node, key, "this is a folder, which has no revisions", given=text)
    elif found and not folder:
        problems.add(node, key, "this is a file, not a folder", given=text, allowed=MODEL)
    elif folder and not (path / "config.json").is_file():
        problems.add(node, key, "there is no config.json in this folder", given=text)
    elif folder:
        return Source(str(path.resolve()))
    elif text.startswith((".", "/", "~")) or text.count("/") > 1:
        hint = f"Looked for {path}." if str(path) != text else None
        problems.add(node, key, "there is no such folder", given=text, hint=hint)
    elif _HUB_ID.fullmatch(text if "@" in text else f"{text}@main"):
        name, _, revision = text.partition("@")
        return Source(name, revision or "main")
    else:
        problems.add(node, key, "this names no model", given=text, allowed=MODEL)
    return None


def _tiling(node: Node, preset: Tiling | None, image_px: int, problems: Problems) -> Tiling | None:
    if node.value is None:
        return None
    kind = _scheme(node, preset, problems)
    foreign = {
        field.name: (owner, field.default)
        for owner in TILINGS.values()
        for field in dataclasses.fields(owner)
        if field.name not in {own.name for own in dataclasses.fields(kind)}
    }
    given = read_keys(kind, node, "backbone.tiling", problems, ("scheme", *foreign))
    for name, (owner, default) in foreign.items():
        item = node.entries.get(name)
        if item is not None and item.plain != default:  # a grid file that was written in full has all keys
            message = f"only {owner.scheme} has this, and the scheme is {kind.scheme}"
            problems.add(item, f"backbone.tiling.{name}", message, given=item.plain)
    base = preset if isinstance(preset, kind) else kind.of(image_px)
    return dataclasses.replace(base, **given)


def _scheme(node: Node, preset: Tiling | None, problems: Problems) -> type[Tiling]:
    """The kind of tiling that the key ``scheme`` names, by default that of the preset."""
    default = AnyRes if preset is None else type(preset)
    item = node.entries.get("scheme")
    if item is None:
        return default
    if isinstance(item.value, str) and item.value in TILINGS:
        return TILINGS[item.value]
    close = nearest(item.value, TILINGS) if isinstance(item.value, str) else None
    allowed = ", ".join(TILINGS)
    message = "this value does not fit"
    problems.add(item, "backbone.tiling.scheme", message, given=item.plain, allowed=allowed, nearest=close)
    return default


def _check_sizes(spec: BackboneSpec, node: Node, problems: Problems) -> None:
    """Sizes that contradict each other; a problem stands at the key that was given, if one of them was."""

    def refuse(message: str, *keys: str) -> None:
        key = next((key for key in keys if key in node.entries), keys[0])
        problems.add(node.entries.get(key, node), f"backbone.{key}", message)

    if spec.image_px != spec.grid * spec.patch_px:
        message = f"image_px {spec.image_px} is not grid {spec.grid} * patch_px {spec.patch_px}"
        refuse(f"{message} = {spec.grid * spec.patch_px}", "image_px", "grid", "patch_px")
    if spec.tower_width % spec.tower_heads:
        message = f"tower_width {spec.tower_width} is no multiple of tower_heads {spec.tower_heads}"
        refuse(message, "tower_heads", "tower_width")
    if spec.select_layer > spec.tower_depth:
        message = f"select_layer {spec.select_layer} is more than tower_depth {spec.tower_depth}"
        refuse(message, "select_layer", "tower_depth")
    ratios = projector_options(spec.own_projector).ratios(spec.grid)
    if spec.own_ratio not in ratios:
        message = f"{spec.own_projector} cannot make own_ratio {spec.own_ratio} of a {spec.grid}x{spec.grid} grid"
        refuse(f"{message}, but {', '.join(map(str, ratios))}", "own_ratio", "own_projector", "grid")
    if spec.tiling is None:
        return
    if not spec.tiling.pinpoints:
        refuse(f"{spec.tiling.scheme} needs pinpoints: the resolutions that images are fitted into", "tiling")
    odd = [size for size in spec.tiling.pinpoints if any(side % spec.image_px for side in size)]
    if odd:
        height, width = odd[0]
        message = f"pinpoints must be multiples of image_px {spec.image_px}, unlike [{height}, {width}]"
        refuse(message, "tiling", "image_px", "grid")
