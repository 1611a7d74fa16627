"""The tasks of a run and which comes first: a cell's answers need its checkpoint, its scores all its shards."""

from __future__ import annotations

from collections.abc import Sequence

from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id, checkpoint_id
from vr_eval.runs.tasks import Shard, Task


def trainings(cells: Sequence[Cell], grid: Grid) -> dict[str, Task]:
    """By the id of each checkpoint that `cells` lack, the task that makes it."""
    lacking: dict[str, list[str]] = {}
    for cell in cells:
        if not cell.random_weights and find_checkpoint(cell) is None:
            lacking.setdefault(checkpoint_id(cell), []).append(cell_id(cell, grid))
    return {checkpoint: Task("train", tuple(names)) for checkpoint, names in lacking.items()}


def tasks_of(cells: Sequence[Cell], grid: Grid, shards: Sequence[int], *, across: bool = False) -> list[Task]:
    """All tasks of a run that evaluates `cells`, in the order in which they begin where there is a choice.

    Cells that share a checkpoint come after each other, as a worker keeps the model that it has loaded.

    Args:
        shards: Into how many parts the questions of each cell are cut.
        across: All cells answer their first part before any answers its second: images are walked once for all of them.
    """
    train = trainings(cells, grid)
    made = {task.name: task for task in train.values()}
    ordered = _by_checkpoint(list(zip(cells, shards, strict=True)))
    parts: list[list[Task]] = []
    for cell, count in ordered:
        needs = (train[checkpoint_id(cell)].name,) if checkpoint_id(cell) in train else ()
        name = (cell_id(cell, grid),)
        split = [Task("evaluate", name, Shard(index, count), needs) for index in range(count)] if count > 1 else []
        parts.append([*split, Task("evaluate", name, needs=(*needs, *(task.name for task in split)))])
    tasks = [task for own in parts for task in own]
    if across:
        # Stable: within a part cells stay in order; what scores a cell comes behind its last part.
        tasks.sort(key=lambda task: task.shard.index if task.shard else max(shards))
    found: dict[str, Task] = {}
    for task in tasks:  # a checkpoint is trained right before what needs it first
        found |= {need: made[need] for need in task.needs if need in made}
        found[task.name] = task
    return list(found.values())


def _by_checkpoint(cells: Sequence[tuple[Cell, int]]) -> list[tuple[Cell, int]]:
    first: dict[str, int] = {}
    for place, (cell, _) in enumerate(cells):
        first.setdefault(checkpoint_id(cell), place)
    return sorted(cells, key=lambda pair: first[checkpoint_id(pair[0])])
