"""Tables of the datasets library: which columns can hold conversations and images, and which image files they name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, LargeList, List, Value
from datasets import Image as ImageFeature
from pyarrow import compute

from vr_eval.errors import InputError, Problem
from vr_eval.training.typed import IMAGES

_TEXT = ("string", "large_string", "string_view")
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_BYTES = ("binary", "large_binary", "binary_view")
_TURNS = "a list of {from: string, value: string}, or {from: list of string, value: list of string}"
_PICTURES = "an Image, {bytes: binary, path: string}, binary, a string with a path, or a list of one of them"
_AT_ONCE = 1000  # rows


def check_columns(features: Features, file: str) -> None:
    """Raises InputError: no column holds conversations, or one is of a type that cannot hold what it should."""
    if "conversations" not in features:
        given = ", ".join(features)
        raise InputError(Problem("a column is missing", file=file, given=given, allowed="conversations"))
    allowed = {"conversations": _TURNS, **dict.fromkeys(IMAGES, _PICTURES)}
    problems = [
        Problem("this column is of the wrong type", file=file, key=name, given=_shown(features[name]), allowed=words)
        for name, words in allowed.items()
        if name in features and not (_is_turns if name == "conversations" else _is_pictures)(features[name])
    ]
    if problems:
        raise InputError(problems)


def check_alike(files: Sequence[tuple[str, Features]]) -> None:
    """Of files that are read as one table: every one as `check_columns` wants it, and all of the same types.

    The datasets library would make what is in other files into what is in the first one.

    Raises:
        InputError: the first file that is otherwise.
    """
    for file, features in files:
        check_columns(features, file)
        for name in ("conversations", *IMAGES):
            given, first = (_shown(found.get(name)).replace("large_", "") for found in (features, files[0][1]))
            if given != first:
                message = f"this column is of another type than in {files[0][0]}"
                raise InputError(Problem(message, file=file, key=name, given=given, allowed=first))


def encoded_images(rows: Dataset) -> Dataset:
    """`rows` whose images stay bytes and paths when a row is read."""
    encoded = ImageFeature(decode=False)
    for name in [name for name in IMAGES if name in rows.column_names]:
        feature = rows.features[name]
        if isinstance(feature, ImageFeature):
            rows = rows.cast_column(name, encoded)
        elif isinstance(_item(feature), ImageFeature):
            rows = rows.cast_column(name, type(feature)(encoded))
    return rows


def image_files(rows: Dataset, columns: Iterable[str] = IMAGES) -> Iterator[bytes]:
    """The paths of the images that `rows` name and do not hold, without reading those that they hold."""
    for name in [name for name in columns if name in rows.column_names]:
        for batch in rows.select_columns(name).with_format("arrow").iter(_AT_ONCE):
            yield from _paths(batch[name])


def _paths(column: Any) -> list[bytes]:
    if any(is_list(column.type) for is_list in _LISTS):
        column = compute.list_flatten(column)
    if pa.types.is_struct(column.type):
        held = compute.is_valid(compute.struct_field(column, "bytes"))
        column = compute.struct_field(column.filter(compute.invert(held)), "path")
    if str(column.type) not in _TEXT:
        return []
    # By way of bytes, as a damaged table may hold text that is no UTF-8.
    paths: list[bytes] = column.drop_null().cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
    return paths


def _is_turns(feature: Any) -> bool:
    turn = _item(feature)
    if isinstance(turn, dict):
        return all(_is_value(turn.get(key), _TEXT) for key in ("from", "value"))
    lists = feature if isinstance(feature, dict) else {}
    return all(_is_value(_item(lists.get(key)), _TEXT) for key in ("from", "value"))


def _is_pictures(feature: Any) -> bool:
    item = _item(feature)
    return _is_value(feature, ("null",)) or _is_value(item, ("null",)) or _is_picture(feature if item is None else item)


def _is_picture(feature: Any) -> bool:
    if isinstance(feature, dict):
        fits = feature.keys() == {"bytes", "path"}
        return fits and _is_value(feature["bytes"], (*_BYTES, "null")) and _is_value(feature["path"], (*_TEXT, "null"))
    return isinstance(feature, ImageFeature) or _is_value(feature, (*_TEXT, *_BYTES))


def _item(feature: Any) -> Any:
    """What a list holds; None of anything else."""
    return feature.feature if isinstance(feature, List | LargeList) else None


def _is_value(feature: Any, types: tuple[str, ...]) -> bool:
    return isinstance(feature, Value) and feature.dtype in types


def _shown(feature: Any) -> str:
    """A type in the words in which others are allowed."""
    if isinstance(feature, dict):
        return "{" + ", ".join(f"{key}: {_shown(value)}" for key, value in feature.items()) + "}"
    if (item := _item(feature)) is not None:
        return f"list of {_shown(item)}"
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__
