"""Conversations on disk or on the hub, whatever form they come in, as rows of one form.

LLaVA's own form is a list of objects with ``id``, ``image`` and ``conversations``, whose turns are ``{"from": "human",
"value": ...}`` and ``{"from": "gpt", ...}``; one JSON array, or one object a line. They are rewritten once as Arrow, so
that hundreds of thousands of them cost no memory and are shared by all processes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value, load_dataset, load_from_disk
from datasets import Image as ImageFeature
from PIL import Image

from vr_eval.config.recipe import StageData
from vr_eval.errors import InputError, Problem
from vr_eval.models.reading import upright, whole_images
from vr_eval.paths import home

_IMAGES = ("image", "images")
_TURN = {"from": Value("string"), "value": Value("string")}
_FORM = Features({"id": Value("string"), "images": List(Value("string")), "conversations": List(_TURN)})


class BrokenSample(ValueError):
    """What is wrong with one conversation, in words that many can share."""


@dataclass(frozen=True)
class Dialogue:
    """One conversation; its questions say ``<image>`` where an image stands."""

    turns: tuple[tuple[str, str], ...]
    system: str
    images: tuple[Any, ...]
    """Paths, or what the datasets library holds of an image: its bytes or its path."""


@dataclass(frozen=True)
class Records:
    """The conversations of one stage, in their order."""

    rows: Dataset
    image_folder: Path | None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Dialogue:
        """Raises BrokenSample: it holds no whole conversation."""
        given = self.rows[row]
        images = [image for name in _IMAGES for image in _listed(given.get(name))]
        system, turns = _turns(given["conversations"] or [])
        return Dialogue(turns, system, tuple(images))

    def name(self, row: int) -> str:
        """The `id` of a row, or its number."""
        given = self.rows.select_columns("id")[row]["id"] if "id" in self.rows.column_names else None
        return str(row if given in (None, "") else given)

    def load(self, image: Any) -> Image.Image:
        """One image of a dialogue as upright RGB. Raises BrokenSample: it is missing, or no image."""
        path = Path(image if isinstance(image, str) else image.get("path") or "")
        held = None if isinstance(image, str) else image.get("bytes")
        file: Any = io.BytesIO(held) if held is not None else self.image_folder / path if self.image_folder else path
        try:
            with whole_images(), Image.open(file) as opened:
                return upright(opened)
        except FileNotFoundError:
            raise BrokenSample("an image is missing") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise BrokenSample("an image cannot be read") from None


def open_records(data: StageData) -> Records:
    """The conversations that `data` names.

    Raises:
        InputError: there are none, or not in a form that is known.
    """
    folder = Path(data.image_folder).expanduser() if data.image_folder is not None else None
    if data.is_llava_file:
        path = Path(data.name).expanduser()
        return Records(_rewritten(path, data.identity()), folder or path.parent)
    rows = _from_datasets(data)
    missing = {"conversations"} - set(rows.column_names)
    if missing:
        raise InputError(
            Problem("a column is missing", file=data.name, given=", ".join(rows.column_names), allowed="conversations")
        )
    for name in set(_IMAGES) & set(rows.column_names):
        if isinstance(rows.features[name], ImageFeature):
            rows = rows.cast_column(name, ImageFeature(decode=False))
        elif isinstance(rows.features[name], List) and isinstance(rows.features[name].feature, ImageFeature):
            rows = rows.cast_column(name, List(ImageFeature(decode=False)))
    return Records(rows, folder)


def _from_datasets(data: StageData) -> Dataset:
    path = Path(data.name).expanduser()
    name, _, revision = data.name.partition("@")
    try:
        if (path / "state.json").is_file():
            return load_from_disk(str(path))
        if path.is_dir():
            return load_dataset(str(path), split="train")
        if path.suffix == ".parquet":
            return load_dataset("parquet", data_files=str(path), split="train")
        return load_dataset(name, split="train", revision=revision or None)
    except Exception as error:  # whatever the library, the hub or the network raises
        hint = "A file is named by its path; what is on the hub is fetched where there is network, and then kept."
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(Problem(f"no training data can be loaded: {first}", file=data.name, hint=hint)) from error


def _rewritten(path: Path, content: str) -> Dataset:
    """The rows of a LLaVA-format file; kept by the hash of its content."""
    kept = home() / "training-data" / content[:16]
    if not kept.is_dir():
        rows = Dataset.from_list(list(_normal_rows(path)), features=_FORM)
        made = kept.with_name(f"{kept.name}.partial")
        rows.save_to_disk(str(made))
        made.replace(kept)
    return load_from_disk(str(kept))


def _normal_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(_read(path)):
        given = record if isinstance(record, dict) else {}
        images = [image for name in _IMAGES for image in _listed(given.get(name))]
        turns = given.get("conversations")
        said = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
        yield {
            "id": str(given.get("id", number)),
            "images": [str(image) for image in images],
            "conversations": [{key: str(turn.get(key, "")) for key in ("from", "value")} for turn in said],
        }


def _read(path: Path) -> Iterator[Any]:
    """Raises InputError: no JSON, or no list of conversations."""
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            if path.suffix == ".jsonl":
                for text in file:
                    number += 1
                    if text.strip():
                        yield json.loads(text)
                return
            found = json.load(file)
    except (OSError, ValueError) as error:
        line = number or getattr(error, "lineno", None)
        raise InputError(Problem(f"cannot be read: {error}", file=str(path), line=line)) from error
    if not isinstance(found, list):
        raise InputError(Problem("must be a list of conversations", file=str(path), given=type(found).__name__))
    yield from found


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list) else [value]


def _turns(conversation: list[dict[str, str]]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The system's words and pairs of question and answer. Raises BrokenSample: not a whole conversation."""
    said = [(turn["from"], (turn["value"] or "").strip()) for turn in conversation]
    system = said.pop(0)[1] if said and said[0][0] == "system" else ""
    # Some conversations were cut at both ends; LLaVA leaves out what stands before the first question.
    if said and said[0][0] == "gpt":
        said.pop(0)
    if said and said[-1][0] == "human":
        said.pop()
    if not said:
        raise BrokenSample("the conversation is empty")
    if [who for who, _ in said] != ["human", "gpt"] * (len(said) // 2):
        raise BrokenSample("questions and answers do not alternate")
    if not all(text for who, text in said if who == "gpt"):
        raise BrokenSample("an answer is empty")
    return system, tuple((said[place][1], said[place + 1][1]) for place in range(0, len(said), 2))
