"""Every family of backbones from the hub to its answers: the commands of a first user, on published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.hub.families import FAMILIES, data_repositories
from tests.hub.server import serving
from tests.hub.tables import OF_EACH_SUITE
from tests.hub.world import World

PROBES = """\
# Where is it lost?
kind: probe
name: where
grids: [real.yaml]
data: [digits]
probes: [ridge]
train_per_class: 2
test_per_class: 1
attention_images: 2
resamples: 100
"""
QUESTIONS = 3 + 3 + 3 + 3
"""Of each cell; both questions on an image of MME are one."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_from_the_hub_to_answers_probes_and_times(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    with serving(*family.repositories(tmp_path / "made"), *data_repositories()) as hub:
        world = World(tmp_path, hub)
        family.write_grid(world.work)
        (world.work / "where.yaml").write_text(PROBES)
        codes, done = world.run_all(["doctor", "real.yaml"], ["fetch", "real.yaml"], ["doctor", "real.yaml"])
        assert codes == [0, 0, 0], done.err
        assert "to fetch: " in done.out
        assert "real can run without network now" in done.err
        assert done.out.strip().splitlines()[-2] == "real can run without network"
        assert all(one.token == "" for one in done.asked)
        commands = (
            ["plan", "real.yaml"],
            ["train", "real.yaml"],
            ["run", "real.yaml"],
            ["probe", "where.yaml"],
            ["bench", "real.yaml", "--repeats", "1"],
        )
        codes, done = world.run_all(*commands, HF_HUB_OFFLINE="1")
        assert codes == [0] * len(commands), done.err
        assert done.asked == []
        assert "Traceback" not in done.err
        records = pd.read_parquet(world.work / "runs/real/records.parquet")
        assert len(records) == QUESTIONS * len(family.cells)
        assert set(records["task"]) == set(OF_EACH_SUITE)
        assert not records["failure"].any()
        commits = {f"{id}@main": hub.repositories["models", id].branches["main"] for id in family.writers}
        for about in (world.work / "runs/real/cells").glob("*/cell.json"):
            assert json.loads(about.read_text())["checkpoint"]["sources"] == commits
        taps = pd.read_csv(next((world.work / "runs/where").glob("*.csv")))
        assert len(taps)
