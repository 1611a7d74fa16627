"""All official tasks through the hub: their data as published, asked without network by what `fetch` left behind."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.hub.families import LLAVA
from tests.hub.server import serving
from tests.hub.tables import BY_TASK, official
from tests.hub.world import World
from vr_eval.catalog.official_tasks import SUITES


@pytest.mark.slow
def test_every_task_of_every_suite_is_fetched_and_asked(tmp_path: Path) -> None:
    tasks = [task for suite in SUITES.values() for task in suite]
    with serving(*LLAVA.repositories(tmp_path / "made"), *official(*tasks)) as hub:
        world = World(tmp_path, hub)
        LLAVA.write_grid(world.work, cells=["{projector: mlp}"], tasks=tasks)
        fetched = world.run("fetch", "real.yaml")
        assert fetched.code == 0, fetched.err
        done = world.run("run", "real.yaml", HF_HUB_OFFLINE="1")
        assert (done.code, done.asked) == (0, []), done.err
        records = pd.read_parquet(world.work / "runs/real/records.parquet")
        counts = records["task"].value_counts()
        assert {task: counts.get(task) for task in tasks} == {task: len(BY_TASK[task].scores) for task in tasks}
        assert not records["failure"].any()
