"""The images that a report embeds, copied from the tasks' data into the run directory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from PIL import Image

from vr_eval.config.tasks import task_fields, task_files
from vr_eval.report import choose_samples, image_path, save_image


def keep_images(run_dir: Path, records: pd.DataFrame) -> None:
    """Save the images of the samples that the report shows, those that are not there yet.

    Only tasks on local parquet files are looked up; samples of others, and those whose image cannot be read, are shown
    without one.
    """
    clusters = records.drop_duplicates(["task", "doc_id"]).set_index(["task", "doc_id"])["cluster"]
    wanted: dict[str, list[tuple[int, str]]] = {}
    for task, doc in choose_samples(records):
        cluster = str(clusters.loc[(task, doc)])
        if not image_path(run_dir, task, cluster).exists():
            wanted.setdefault(task, []).append((doc, cluster))
    for task, docs in wanted.items():
        images = _column(task)
        for doc, cluster in docs:
            entry = images[doc] if doc < len(images) else None
            if entry is None or image_path(run_dir, task, cluster).exists():
                continue
            try:
                image = Image.open(io.BytesIO(entry["bytes"]))
                image.load()
            except (OSError, ValueError, SyntaxError, TypeError, KeyError):
                continue
            save_image(run_dir, task, cluster, image)


def _column(task: str) -> list[Any]:
    """The image column of a task's test file; empty where the task has none."""
    path = _test_file(task)
    if path is None:
        return []
    table = pq.ParquetFile(path)
    if "image" not in table.schema_arrow.names:
        return []
    entries: list[Any] = table.read(columns=["image"]).column("image").to_pylist()
    return entries


def _test_file(task: str) -> Path | None:
    file = task_files().get(task)
    if file is None:
        return None
    content = task_fields(file)
    if content.get("dataset_path") != "parquet":
        return None
    files = (content.get("dataset_kwargs") or {}).get("data_files")
    name = files.get(content.get("test_split")) if isinstance(files, dict) else files
    path = file.parent / name if isinstance(name, str) else None
    return path if path is not None and path.is_file() else None
