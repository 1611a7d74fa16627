"""Conversations that the datasets library finds: in a folder, a parquet file, what it saved itself, or on the hub.

JSON is read by our own reader wherever it lies. The library gives every file the types of the first one's beginning:
where that holds text, a number further on becomes text without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, Features, concatenate_datasets, load_dataset, load_dataset_builder, load_from_disk
from huggingface_hub import snapshot_download
from pyarrow import parquet

from vr_eval.catalog.recipe import StageData
from vr_eval.errors import InputError, Problem
from vr_eval.training.columns import check_alike, check_columns
from vr_eval.training.llava_file import llava_records


def load_rows(data: StageData) -> tuple[Dataset, bool]:
    """The rows that `data` names, and whether each holds a record of JSON and no columns of its own.

    Raises:
        InputError: there are none, or the columns cannot hold conversations.
    """
    try:
        rows, of_json = _load(data)
    except InputError:
        raise
    except Exception as error:  # whatever the library, the hub or the network raises
        hint = "A file is named by its path; what is on the hub is fetched where there is network, and then kept."
        # The library wraps what a file's reader says in an error that says nothing.
        said = error.__cause__ or error
        first = (str(said).strip().splitlines() or [type(said).__name__])[0]
        raise InputError(Problem(f"no training data can be loaded: {first}", file=data.name, hint=hint)) from error
    if not of_json:
        check_columns(rows.features, data.name)
    return rows, of_json


def _load(data: StageData) -> tuple[Dataset, bool]:
    path = Path(data.name).expanduser()
    if (path / "state.json").is_file():
        return load_from_disk(str(path)), False
    if path.is_dir():
        return _of_folder(path)
    if path.suffix == ".parquet":
        check_alike([(str(path), _features(path))])
        return load_dataset("parquet", data_files=str(path), split="train"), False
    name, _, revision = data.name.partition("@")
    rows = load_dataset(name, split="train", revision=revision or None)
    if rows.info.builder_name != "json":
        return rows, False
    kept = snapshot_download(name, repo_type="dataset", revision=revision or None, local_files_only=True)
    return _of_folder(Path(kept))


def _of_folder(folder: Path) -> tuple[Dataset, bool]:
    builder = load_dataset_builder(str(folder))
    files = [Path(file) for file in (builder.config.data_files or {}).get("train", ())]
    if builder.info.builder_name == "json" and files:
        return _of_json(files), True
    if builder.info.builder_name == "parquet":
        check_alike([(str(file), _features(file)) for file in files])
    return load_dataset(str(folder), split="train"), False


def _of_json(files: Sequence[Path]) -> Dataset:
    packed = [file for file in files if file.suffix not in (".json", ".jsonl", ".ndjson")]
    if packed:
        raise InputError(Problem("this file is packed", file=str(packed[0]), hint="Unpack it."))
    return concatenate_datasets([llava_records(file, StageData(str(file), None, None).identity()) for file in files])


def _features(file: Path) -> Features:
    return Features.from_arrow_schema(parquet.read_schema(file))
