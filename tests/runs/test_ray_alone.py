"""The executor ray without a cluster: Ray started on this machine, and everything that keeps it from being joined."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vr_eval.errors import InputError
from vr_eval.runs.executors import ray_cluster
from vr_eval.runs.executors.ray import RayExecutor, _fitting
from vr_eval.runs.tasks import CellOutcome, Outcome, Task

HERE = """
import os, sys, time
from pathlib import Path
from vr_eval.runs.executors.ray import RayExecutor
from vr_eval.runs.tasks import CellOutcome, Outcome, Task

def work(folder, task):
    return Outcome((CellOutcome(task.cells[0], os.environ["OMP_NUM_THREADS"]),))

executor = RayExecutor(Path("."), address=None, cpus=1, gpus=0, workers=2, work=work)
executor.submit([Task("evaluate", ("a",))])
ended = []
while not ended:
    ended = executor.poll(60)
children = [stat.parent.name for stat in Path("/proc").glob("[0-9]*/stat")
            if stat.read_text().rpartition(")")[2].split()[1] == str(os.getpid())]
executor.cancel()
print(ended[0].outcome.cells[0].summary, len(children) > 1, executor.poll(0))
print(*(pid for pid in children if Path("/proc", pid).exists()))
"""


def work(folder: str, task: Task) -> Outcome:
    return Outcome((CellOutcome(task.cells[0]),))


def made(folder: Path, address: str | None) -> RayExecutor:
    return RayExecutor(folder, address=address, cpus=1, gpus=0, workers=1, work=work)


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_missing_package_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError) as error:
        made(tmp_path, None)
    assert str(error.value).splitlines() == [
        "--executor: the executor ray needs the package ray",
        "    pip install 'vr-eval[ray]'",
    ]


@pytest.mark.parametrize("address", ["nonsense", "ray://head:10001", "http://head:8265", "head", "auto:x"])
def test_what_is_no_address_is_refused_at_once(address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="this is no address of a Ray cluster"):
        made(tmp_path, address)


def test_a_cluster_that_is_not_there_is_one_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    begin = time.monotonic()
    with pytest.raises(InputError) as error:
        made(tmp_path, address)
    assert time.monotonic() - begin < 10
    assert "no Ray cluster can be used: nobody answers" in str(error.value)
    assert address in str(error.value)
    said = capfd.readouterr()
    assert [said.out, said.err] == ["", ""]


def test_a_port_that_is_no_cluster_is_given_up(
    deaf: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ray would wait for five minutes, and then end the process."""
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 5)
    with pytest.raises(InputError, match="no Ray cluster answered within 5 s"):
        made(tmp_path, f"127.0.0.1:{deaf}")
    said = capfd.readouterr()
    assert [said.out, said.err] == ["", ""]


def test_what_the_cluster_says_against_us_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of Python or Ray, or a machine that is no part of the cluster."""
    pytest.importorskip("ray")
    answer = "answer " + json.dumps("RuntimeError: Version mismatch:\n    Ray: 2.1\n")
    said = f"(raylet) A node\n{answer}\nwas lost\n"
    monkeypatch.setattr(ray_cluster, "_TRY", f"print({said!r})")
    with pytest.raises(InputError) as error:
        made(tmp_path, "auto")
    assert "no Ray cluster can be used: RuntimeError: Version mismatch: Ray: 2.1 (given: 'auto'" in str(error.value)
    assert len(str(error.value).splitlines()) == 2


def test_ray_is_started_here_and_leaves_no_process(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    environment = {**os.environ, "OMP_NUM_THREADS": "7"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", HERE], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
    )
    assert done.stdout.splitlines() == ["1 True []", ""]
    assert done.stderr == ""


def test_a_handler_of_signals_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ray_cluster._own_signals():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("resources", "needs", "fitting"),
    [
        ({"CPU": 8.0, "GPU": 2.0}, {"CPU": 2, "GPU": 1}, 2),
        ({"CPU": 8.0, "GPU": 1.0}, {"CPU": 1, "GPU": 0.1}, 8),
        ({"CPU": 16.0, "GPU": 1.0}, {"CPU": 1, "GPU": 0.1}, 10),
        ({"CPU": 8.0}, {"CPU": 1, "GPU": 1}, 0),
        ({"CPU": 8.0}, {"CPU": 3, "GPU": 0}, 2),
    ],
)
def test_how_many_tasks_fit_on_a_machine(resources: dict[str, Any], needs: dict[str, Any], fitting: int) -> None:
    assert _fitting(resources, needs) == fitting
