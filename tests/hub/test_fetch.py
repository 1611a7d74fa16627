"""`vr-eval fetch` through what can go wrong on the way: it goes on where it was, or ends in one clear error."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.content import Repository
from tests.hub.families import LLAVA
from tests.hub.faults import Fault
from tests.hub.server import Hub, serving
from tests.hub.tables import official
from tests.hub.world import World
from vr_eval.models.connection import BLOCK

CELLS = ("{projector: mlp}",)
LARGE = "big/llava"
SHARD, SMALL = 6_000_000, 1_000_000
"""Bytes of the shards."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A grid that needs one small dataset and one model whose shards are large; nothing loads it."""
    shards = {f"model-0000{n}-of-00002.safetensors": bytes([n]) * size for n, size in ((1, SHARD), (2, SMALL))}
    weights = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    model = Repository("model", LARGE)
    model.commit({"config.json": "{}", "model.safetensors.index.json": weights, **shards})
    with serving(model, *official("chartqa")) as hub:
        world = World(tmp_path, hub)
        LLAVA.write_grid(world.work, cells=CELLS, tasks=["chartqa"], sources=f"checkpoint: {LARGE}")
        yield world


def model_of(hub: Hub) -> Repository:
    return hub.repositories["models", LARGE]


def shards_of(world: World) -> list[str]:
    """Large files of the model by their address in storage."""
    (files,) = model_of(world.hub).commits.values()
    return [f"/{file.sha256}" for file in files.values() if file.lfs]


def whole(world: World) -> bool:
    """Whether every file of the model is in the cache, byte by byte."""
    found = {path.name: path for path in world.cache.glob("hub/models--*/snapshots/*/*")}
    (files,) = model_of(world.hub).commits.values()
    return all(found[file.path].read_bytes() == file.content for file in files.values())


@pytest.mark.parametrize("reset", [pytest.param(False, marks=pytest.mark.slow), True], ids=["ended", "reset"])
def test_a_connection_that_breaks_off_in_a_shard_is_gone_on_with(world: World, reset: bool) -> None:
    cut = SHARD * 2 // 3
    world.hub.faults = [Fault(shards_of(world)[0], cut=cut, reset=reset)]
    done = world.run("fetch", "real.yaml")
    assert (done.code, whole(world)) == (0, True), done.err
    first, rest = (one for one in done.asked if one.path == shards_of(world)[0])
    assert (first.range, first.sent) == ("", cut)
    # A block that was not whole comes again.
    begun = int(rest.range.removeprefix("bytes=").rstrip("-"))
    assert cut - BLOCK < begun <= cut
    assert rest.sent == SHARD - begun


def test_a_busy_hub_is_waited_for(world: World) -> None:
    world.hub.faults = [
        Fault(shards_of(world)[0], status=503),
        Fault(r"/api/models/big/llava/tree", status=429, headers={"Retry-After": "1"}),
        Fault(r"/resolve/main/README.md", method="HEAD", status=503),
        Fault(r"/api/datasets/.*/revision", status=500),
    ]
    done = world.run("fetch", "real.yaml")
    assert (done.code, whole(world)) == (0, True), done.err
    assert "the hub answers 503; trying again in 1 s" in done.err
    assert [fault.times for fault in world.hub.faults] == [0, 0, 0, 0]
    assert done.files().count(shards_of(world)[1]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("status", [503, 0], ids=["busy", "broken off"])
def test_a_hub_that_stays_so_is_one_clear_error(world: World, status: int) -> None:
    world.hub.faults = [Fault(shards_of(world)[0], times=-1, status=status, cut=None if status else 0, reset=True)]
    done = world.run("fetch", "real.yaml")
    assert done.code == 2, done.err
    assert f"vr-eval: weights {LARGE}: cannot be fetched" in done.err
    assert "Traceback" not in done.err
    world.hub.faults = []
    again = world.run("fetch", "real.yaml")
    assert (again.code, whole(world), again.files()) == (0, True, shards_of(world)[:1])


@pytest.mark.parametrize(
    ("kind", "token"),
    [
        ("models", "hf_of_somebody_else"),
        pytest.param("models", "", marks=pytest.mark.slow),
        pytest.param("datasets", "hf_of_somebody_else", marks=pytest.mark.slow),
        pytest.param("datasets", "", marks=pytest.mark.slow),
    ],
    ids=["models-403", "models-401", "datasets-403", "datasets-401"],
)
def test_a_gated_repository_is_one_clear_error(world: World, kind: str, token: str) -> None:
    repository = next(one for (of, _), one in world.hub.repositories.items() if of == kind)
    repository.readers = {"hf_of_a_reader"}
    done = world.run("fetch", "real.yaml", **({"HF_TOKEN": token} if token else {}))
    assert done.code == 2, done.err
    page = f"{world.hub.address}/{'datasets/' if kind == 'datasets' else ''}{repository.id}"
    assert f"{repository.id}: it is gated, and there is no token that may read it" in done.err
    assert f"Accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN." in done.err
    assert "Traceback" not in done.err
    assert "somebody_else" not in done.out + done.err
    # The rest is fetched, and storage never sees a token.
    assert any(kind not in one.path and one.sent for one in done.asked)
    assert not any(one.token for one in done.asked if one.host == "storage")
    assert world.run("fetch", "real.yaml", HF_TOKEN="hf_of_a_reader").code == 0


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (f"checkpoint: {LARGE}@v9", "weights big/llava @v9: the hub has no such revision of it (given: 'v9')"),
        ("checkpoint: big/lava", "weights big/lava: the hub does not have it, or not for you"),
    ],
    ids=["revision", "repository"],
)
def test_what_the_hub_does_not_have_is_one_clear_error(world: World, sources: str, said: str) -> None:
    LLAVA.write_grid(world.work, cells=CELLS, tasks=["chartqa"], sources=sources)
    done = world.run("fetch", "real.yaml")
    assert done.code == 2, done.err
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_two_processes_that_fetch_the_same_transfer_it_once(world: World) -> None:
    world.hub.faults = [Fault(path, times=-1, pause=1.5) for path in shards_of(world)]
    world.hub.take()
    both = [world.start("-m", "vr_eval", "fetch", "real.yaml") for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert whole(world)
    asked = world.hub.take()
    assert sorted(one.path for one in asked if one.sent in (SHARD, SMALL)) == sorted(shards_of(world))
    assert world.run("fetch", "real.yaml").asked == []


def test_a_disk_that_fills_up_is_one_clear_error_and_what_is_there_is_kept(world: World) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no disk of one's own can be mounted here")
    # Its size is not told this time, so that the disk is not known to be too small before it is full.
    world.hub.faults = [Fault(r"blobs=true", status=500)]
    large, small = shards_of(world)
    # Both are fetched at once: the small one is whole before the large one fills the disk.
    world.hub.faults.append(Fault(large, pause=1.5))
    world.cache.mkdir()
    script = (
        f"mount -t tmpfs -o size=5m tmpfs {world.cache} && {{ $PYTHON -m vr_eval fetch real.yaml; echo first $?; "
        f"$PYTHON -m vr_eval fetch real.yaml; echo second $?; mount -o remount,size=60m {world.cache}; "
        "$PYTHON -m vr_eval fetch real.yaml; echo third $?; }"
    )
    done = world.shell(["unshare", "-rm", "sh", "-c", script])
    assert done.out.split() == ["first", "2", "second", "2", "third", "0"], done.err
    assert f"vr-eval: {world.cache}: the disk is full (or the quota is used up)" in done.err
    assert "the same command goes on where it stopped" in done.err
    assert "MB left, and this takes about 7.0 MB" in done.err
    assert "Traceback" not in done.err
    assert done.files().count(small) == 1
    assert done.files().count(large) == 2
