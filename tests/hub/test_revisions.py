"""Which commit a number is of: branches move between runs, and what is said stays what was loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.hub import repositories as models
from tests.hub.content import Repository
from tests.hub.families import LLAVA
from tests.hub.faults import Fault
from tests.hub.server import serving
from tests.hub.tables import conversations, official
from tests.hub.world import World

ID = "llava-hf/llava-1.5-7b-hf"
CELLS = ("{projector: mlp}",)
TRAINED = "{projector: avg_pool, ratio: 4}"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A grid whose only cell is a published checkpoint, fetched."""
    with serving(*LLAVA.repositories(tmp_path / "made"), *official("chartqa"), conversations()) as hub:
        world = World(tmp_path, hub)
        write(world)
        yield world


def write(world: World, name: str = "real", sources: str = "", cells: tuple[str, ...] = CELLS) -> None:
    LLAVA.write_grid(world.work, name, cells=cells, tasks=["chartqa"], sources=sources)


def move(world: World) -> tuple[str, str]:
    """Move the branch to other weights; the commits before and behind."""
    repository = world.hub.repositories["models", ID]
    before = repository.branches["main"]
    again = models.published(ID, partial(models.llava, seed=77), world.folder / "again")
    return before, repository.commit(
        {path: file.content for path, file in again.commits[again.branches["main"]].items()}
    )


def about(world: World, run: str) -> dict[str, Any]:
    return dict(json.loads(next((world.work / run / "cells").glob("*/cell.json")).read_text()))


def answers(world: World, run: str) -> list[str]:
    return list(pd.read_parquet(world.work / run / "records.parquet")["answer"])


@pytest.mark.slow
def test_a_branch_that_moves_changes_no_checkpoint_that_was_used(world: World) -> None:
    codes, first = world.run_all(["fetch", "real.yaml"], ["run", "real.yaml"])
    assert codes == [0, 0], first.err
    old, new = move(world)
    assert f"{ID}@main is commit {old[:12]} now" in first.err
    # With everything fetched, a run asks for each name what it stands for, and downloads nothing.
    second = world.run("run", "real.yaml", "--out", "second")
    assert second.code == 0, second.err
    assert second.files() == []
    assert len(second.asked) <= 15
    assert not any(new in one.path for one in second.asked)
    assert answers(world, "second") == answers(world, "runs/real")
    for run in ("runs/real", "second"):
        assert about(world, run)["checkpoint"]["sources"] == {f"{ID}@main": old}
    # Whoever begins now gets what the branch stands for now, and a commit pins either.
    write(world, "pinned", f"checkpoint: {ID}@{old}")
    codes, third = world.run_all(["run", "real.yaml"], ["run", "pinned.yaml"], VR_EVAL_HOME=str(world.folder / "else"))
    assert codes == [0, 0], third.err
    assert about(world, "runs/pinned")["checkpoint"]["sources"] == {f"{ID}@{old}": old}
    assert answers(world, "runs/pinned") == answers(world, "second")


@pytest.mark.slow
def test_what_a_new_user_gets_and_what_a_checkpoint_of_before_needs(world: World) -> None:
    codes, first = world.run_all(["fetch", "real.yaml"], ["run", "real.yaml"])
    assert codes == [0, 0], first.err
    old, new = move(world)
    fresh = World(world.folder / "fresh", world.hub)
    write(fresh)
    codes, done = fresh.run_all(["fetch", "real.yaml"], ["run", "real.yaml"])
    assert codes == [0, 0], done.err
    assert about(fresh, "runs/real")["checkpoint"]["sources"] == {f"{ID}@main": new}
    assert answers(fresh, "runs/real") != answers(world, "runs/real")
    # On a machine whose cache is new and whose checkpoints are not, the commit of these is fetched.
    moved = {"HF_HOME": str(world.folder / "empty")}
    codes, done = world.run_all(["fetch", "real.yaml"], ["doctor", "real.yaml"], **moved)
    assert codes == [0, 0], done.err
    assert f"weights {ID} @{old}: cached" in done.out
    again = world.run("run", "real.yaml", "--out", "again", HF_HUB_OFFLINE="1", **moved)
    assert (again.code, again.asked) == (0, []), again.err
    assert answers(world, "again") == answers(world, "runs/real")


@pytest.mark.slow
def test_a_trained_checkpoint_says_the_commits_of_its_weights_and_data(world: World) -> None:
    write(world, cells=(TRAINED,))
    done = world.run("train", "real.yaml")
    assert done.code == 0, done.err
    (file,) = (world.folder / "home/vr-eval/checkpoints").glob("*/checkpoint.json")
    manifest = json.loads(file.read_text())
    assert manifest["sources"] == {f"{ID}@main": world.hub.repositories["models", ID].branches["main"]}
    (data,) = (one for (kind, _), one in world.hub.repositories.items() if kind == "datasets" and "LLaVA" in one.id)
    assert {stage["commit"] for stage in manifest["data"].values()} == {data.branches["main"]}


@pytest.mark.slow
def test_loading_what_cannot_be_had_is_one_line(world: World) -> None:
    write(world, "revision", f"checkpoint: {ID}@v9")
    write(world, "name", "checkpoint: llava-hf/lava")
    write(world, "gated", "checkpoint: me/gated")
    closed = models.published("me/gated", models.llava, world.folder / "gated")
    closed.readers = {"hf_of_a_reader"}
    world.hub.repositories["models", closed.id] = closed
    codes, done = world.run_all(["run", "gated.yaml"], ["run", "revision.yaml"], ["run", "name.yaml"])
    assert codes == [1, 1, 1], done.err
    gated, revision, name = (line for line in done.err.splitlines() if "FAILED" in line)
    assert "me/gated: the configuration is gated, and there is no token that may read it" in gated
    assert f"{ID}: the hub has no such revision of it (given: 'v9')" in revision
    assert "llava-hf/lava: the hub has no such model, or not for you" in name
    assert "Traceback" not in done.err
    token = world.run("run", "gated.yaml", HF_TOKEN="hf_of_a_reader")
    assert token.code == 0, token.err
    assert not any(one.token for one in token.asked if one.host == "storage")


@pytest.mark.slow
def test_a_run_that_downloads_itself_goes_on_where_a_shard_broke_off(world: World) -> None:
    files = world.hub.repositories["models", ID].commits[world.hub.repositories["models", ID].branches["main"]]
    shard = max(
        (file for file in files.values() if file.path.endswith(".safetensors")), key=lambda one: len(one.content)
    )
    cut = len(shard.content) - 10
    world.hub.faults = [Fault(f"/{shard.sha256}", cut=cut, reset=True)]
    done = world.run("run", "real.yaml")
    assert done.code == 0, done.err
    first, rest = (one for one in done.asked if one.path == f"/{shard.sha256}")
    assert first.sent == cut
    assert rest.status in (200, 206)


PINNED = """
import sys
from vr_eval.catalog.recipe import StageData
from vr_eval.errors import InputError
from vr_eval.training.records import open_records
for name in sys.argv[1:]:
    try:
        found = open_records(StageData(name, None, "plain"))
        print(len(found), found.commit)
    except InputError as error:
        print(error)
"""


def test_pinned_training_data_is_that_commit_or_an_error(tmp_path: Path) -> None:
    data: Repository = conversations("me/data", 4)
    old = data.branches["main"]
    new = data.commit({path: file.content for path, file in conversations("me/data", 6).commits.popitem()[1].items()})
    with serving(data) as hub:
        world = World(tmp_path, hub)
        online = world.python("-c", PINNED, f"me/data@{old}", "me/data")
        assert online.out.split() == ["4", old, "6", new], online.err
        offline = world.python("-c", PINNED, f"me/data@{old}", f"me/data@{new}", HF_HUB_OFFLINE="1")
        assert offline.asked == []
        assert f"me/data@{old}: the cache holds another revision of it, and the hub cannot be asked" in offline.out
        assert offline.out.split()[-2:] == ["6", new]
