"""Whole runs on a Ray cluster of two nodes, one of which is lost, end as a run by one worker does."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.world import GRID
from tests.runs.many import done, facts, started, toy_world
from vr_eval.records.folder import RunFolder
from vr_eval.runs.lease import holders

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.slow

NODE = {"num_cpus": 1, "object_store_memory": 80 * 1024**2}
TRAINED = GRID + "recipe: {images: 40, questions: 2, batch_size: 4, stage1: {steps: 40}, stage2: {steps: 60}}\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    made.second = made.add_node(**NODE)
    yield made
    made.shutdown()


def on_second(cluster: Any, leases: Path) -> bool:
    """Whether a worker of the second node is midway: answers, or stage 1 of a training, are there."""
    (raylet,) = cluster.second.all_processes["raylet"]
    for name, holder in holders(leases).items():
        midway = holder.done or list(leases.parent.glob(f"{name}.training/stage1/checkpoint-*"))
        if name != "run" and midway and parent(holder.pid) == raylet.process.pid:
            return True
    return False


def parent(pid: int) -> int:
    """Of a process; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def run_with_a_loss(cluster: Any, root: Path, leases: Path, *more: str) -> str:
    """What a run said that lost a node in the middle of what has its lease in `leases`; another one joined."""
    driver = started(root, "run", "toys.yaml", "--executor", "ray", "--address", cluster.address, "--out", "ray", *more)
    while not on_second(cluster, leases):
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)
    cluster.remove_node(cluster.second, allow_graceful=False)
    cluster.second = cluster.add_node(**NODE)
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, out + err
    assert "(its node was lost); it goes on" in err
    assert "raylet" not in out + err
    return err


@pytest.fixture(autouse=True)
def _home_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written where the command looks for them."""
    monkeypatch.setenv("VR_EVAL_HOME", str(tmp_path / "home"))


def test_a_node_lost_in_the_middle_of_a_cell_changes_nothing(cluster: Any, tmp_path: Path) -> None:
    toy_world(tmp_path, 150)
    done(tmp_path, "run", "toys.yaml", "--workers", "1", "--out", "one")
    run_with_a_loss(cluster, tmp_path, RunFolder(tmp_path / "ray").leases, "--shards", "2")
    assert facts(tmp_path / "ray") == facts(tmp_path / "one")


def test_a_node_lost_during_a_training_changes_nothing(cluster: Any, tmp_path: Path) -> None:
    toy_world(tmp_path, 12, TRAINED)
    shutil.rmtree(tmp_path / "home/checkpoints")
    done(tmp_path, "run", "toys.yaml", "--workers", "1", "--out", "one")
    shutil.rmtree(tmp_path / "home/checkpoints")
    run_with_a_loss(cluster, tmp_path, tmp_path / "home/checkpoints/.leases")
    assert facts(tmp_path / "ray") == facts(tmp_path / "one")
