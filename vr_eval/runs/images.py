"""The images that a report embeds, as the tasks show them to a model, put into the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from vr_eval.catalog.tasks import Folders
from vr_eval.errors import InputError
from vr_eval.records.columns import CLUSTER, DOC_ID, TASK
from vr_eval.reporting import choose_samples, has_images, save_images

if TYPE_CHECKING:
    from PIL.Image import Image

    from vr_eval.adapters.lmms_tasks import LazyTask


def keep_images(
    run_dir: Path, records: pd.DataFrame, tasks: Mapping[str, LazyTask] | None = None, folders: Folders = ()
) -> None:
    """Save the images of the samples that the report shows, those that are not there yet.

    Samples whose image cannot be read are shown without one.

    Args:
        tasks: Tasks of the run that are loaded; None to load those that are needed (10 s), if any are.
        folders: Where tasks of the user's own are.

    Raises:
        InputError: The disk is full.
    """
    clusters = records.drop_duplicates([TASK, DOC_ID]).set_index([TASK, DOC_ID])[CLUSTER]
    wanted: dict[tuple[str, str], int] = {}
    for task, doc in choose_samples(records):
        cluster = str(clusters.loc[(task, doc)])
        if not has_images(run_dir, task, cluster):
            wanted.setdefault((task, cluster), doc)
    if not wanted:
        return
    loaded = _load({task for task, _ in wanted}, folders) if tasks is None else tasks
    for (task, cluster), doc in wanted.items():
        if task in loaded:
            save_images(run_dir, task, cluster, _shown(loaded[task], doc))


def _load(names: set[str], folders: Folders) -> Mapping[str, LazyTask]:
    """The tasks whose data is still there."""
    from vr_eval.adapters.lmms_tasks import load_tasks

    loaded: dict[str, LazyTask] = {}
    for name in sorted(names):
        try:
            loaded |= load_tasks([name], folders)
        except InputError:  # the answers are there, so a report is made of them
            continue
    return loaded


def _shown(task: LazyTask, doc: int) -> list[Image]:
    """The images of question `doc`, upright, in reading order; none where one of them cannot be read."""
    from vr_eval.models.reading import upright

    try:
        return [upright(image) for image in task.images_of(doc)]
    except Exception:  # whatever a task's code or an image decoder raises: the question failed by it, and is shown so
        return []
