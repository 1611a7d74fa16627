"""Datasets in the layouts of the hub: official tasks and conversations as parquet, with the card that names them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from datasets import Dataset

from tests.adapters.official_data import CASES
from tests.hub.content import Repository
from tests.llava import image
from vr_eval.catalog.official_tasks import OFFICIAL
from vr_eval.catalog.tasks import packaged_files, part_configs, task_fields

BY_TASK = {case.task: case for case in CASES}
OF_EACH_SUITE = ("textvqa_val", "chartqa", "docvqa_val", "mme")
CONVERSATIONS = "lmms-lab/LLaVA-NeXT-Data"

Parts = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""Rows by configuration and split."""


def table(id: str, parts: Parts, *, stated: bool = True) -> Repository:
    """The dataset `id`; `stated`: its card says the columns and sizes, as one that `push_to_hub` writes does."""
    files: dict[str, bytes | str] = {".gitattributes": "*.parquet filter=lfs diff=lfs merge=lfs -text\n"}
    configs: dict[str, dict[str, Any]] = {}
    for (config, split), rows in parts.items():
        data = Dataset.from_list([dict(row) for row in rows])
        folder = "data" if config == "default" else config
        name = f"{folder}/{split}-00000-of-00001.parquet"
        content = io.BytesIO()
        data.to_parquet(content)
        files[name] = content.getvalue()
        one = configs.setdefault(config, {"features": data.features._to_yaml_list(), "splits": [], "files": []})
        size = len(files[name])
        one["splits"].append({"name": split, "num_bytes": size, "num_examples": len(rows)})
        one["files"].append({"split": split, "path": f"{folder}/{split}-*"})
    card: dict[str, Any] = {"license": "mit"}
    if stated:
        card["dataset_info"] = [_info(config, one) for config, one in configs.items()]
    card["configs"] = [{"config_name": config, "data_files": one["files"]} for config, one in configs.items()]
    files["README.md"] = f"---\n{yaml.safe_dump(card, sort_keys=False)}---\n# A dataset\n"
    repository = Repository("dataset", id)
    repository.commit(files)
    return repository


def official(*tasks: str) -> list[Repository]:
    """The datasets that lmms-eval's tasks read; two tasks may read two configurations of one."""
    found: dict[str, dict[tuple[str, str], Sequence[Mapping[str, Any]]]] = {}
    for task in tasks:
        fields = task_fields(packaged_files()[task])
        found.setdefault(str(fields["dataset_path"]), {}).update(_parts(task, fields))
    return [table(id, parts) for id, parts in found.items()]


def _parts(task: str, fields: Mapping[str, Any]) -> dict[tuple[str, str], Sequence[Mapping[str, Any]]]:
    """The split that is asked and one that nobody needs; some have a configuration for each part, or for the images."""
    case, spec = BY_TASK[task], OFFICIAL[task]
    config, split = fields.get("dataset_name") or "default", str(fields["test_split"])
    if spec.parts:
        return {(name, split): [row for row in case.rows if row["sub_task"] == name] for name in part_configs(task)}
    images = {(spec.images, split): case.images} if spec.images else {}
    other = "train" if split != "train" else "rest"
    return {(config, other): case.rows[:1], (config, split): case.rows, **images}


def conversations(id: str = CONVERSATIONS, count: int = 8) -> Repository:
    """LLaVA-NeXT's data: an image, or none, and turns of a person and a model."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        turns = [
            ("human", "<image>\nWhat is it?"),
            ("gpt", f"It is number {number}."),
            ("human", "Sure?"),
            ("gpt", "Yes."),
        ]
        shown: Any = image((30 + number, 50), seed=number)
        if number == count - 1:
            turns, shown = [("human", "What is 2 + 2?"), ("gpt", "4")], None
        said = [{"from": who, "value": text} for who, text in turns]
        rows.append({"id": f"{number:09d}", "image": shown, "conversations": said, "data_source": "made"})
    return table(id, {("default", "train"): rows})


def _info(config: str, one: dict[str, Any]) -> dict[str, Any]:
    size = sum(split["num_bytes"] for split in one["splits"])
    named = {} if config == "default" else {"config_name": config}
    own = {"features": one["features"], "splits": one["splits"], "download_size": size, "dataset_size": size}
    return {**named, **own}
