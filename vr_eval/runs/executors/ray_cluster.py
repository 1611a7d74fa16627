"""Joining a Ray cluster, or starting Ray on this machine: quietly, and within a stated time.

Where nobody answers, Ray itself waits for minutes, writes to the terminal from C++ and may end the process. So an
address is tried by another process first, which can be stopped.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vr_eval.errors import InputError, Problem

ANSWER_SECONDS = 60
"""How long a cluster may take to answer: a first import of Ray from a slow disk included."""
_CONNECT_SECONDS = 5
_OBJECT_STORE = 128 * 1024**2
"""Bytes; tasks and outcomes are small, and Ray would take a third of the machine's memory."""

_TRY = """
import json, sys
try:
    import ray
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
    found = ""
except BaseException as error:
    found = f"{type(error).__name__}: {error}"
sys.stdout.write("\\nanswer " + json.dumps(found) + "\\n")
"""


def load() -> Any:
    """The package ray. Raises InputError where it is missing."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when it is imported
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        hint = "pip install 'vr-eval[ray]'"
        raise InputError(Problem("the executor ray needs the package ray", "--executor", hint=hint)) from error


def join(address: str | None) -> tuple[Any, bool]:
    """The package ray, connected, and whether this connected it: it is left as it is where somebody did so before.

    Args:
        address: `auto` for the cluster that runs on this machine, or HOST:PORT; None for RAY_ADDRESS, as `ray job` sets
            it, and else for Ray that is started here and ends with this process.

    Raises:
        InputError: the package is missing, the address is none, or no cluster of the same Python and Ray answers there
            within 60 seconds.
    """
    ray = load()
    if ray.is_initialized():
        return ray, False
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None:
        _check(address)
    try:
        with _own_signals():
            if address is None:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:
        raise _unusable(address, f"{type(error).__name__}: {error}") from error
    # This program reports dead workers and nodes; Ray would print pages about each, whatever log_to_driver says.
    sys.modules["ray._private.worker"].__dict__["_worker_logs_enabled"] = False
    return ray, True


def _check(address: str) -> None:
    """Raises InputError where no cluster answers."""
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not re.fullmatch(r"[^\s/]+:\d{1,5}", address):
            raise _unusable(address, "this is no address of a Ray cluster")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise _unusable(address, f"nobody answers: {error}") from error
    command = [sys.executable, "-c", _TRY, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _unusable(address, f"no Ray cluster answered within {ANSWER_SECONDS} s") from error
    # Ray prints news of the cluster too, from another thread.
    answers = [line.removeprefix("answer ") for line in done.stdout.splitlines() if line.startswith("answer ")]
    wrong = json.loads(answers[0]) if answers else f"ray ended with {done.returncode}"
    if wrong:
        raise _unusable(address, wrong)


def _unusable(address: str | None, wrong: str) -> InputError:
    what = "Ray does not start on this machine" if address is None else "no Ray cluster can be used"
    hint = "Start one with `ray start --head`, or leave --address out: Ray then runs on this machine alone."
    return InputError(
        Problem(
            f"{what}: {' '.join(wrong.split())}",
            "--executor ray" if address is None else "--address",
            given=address or "none",
            allowed="auto, or HOST:PORT of a cluster that this machine is part of",
            hint=hint if address is not None else None,
        )
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts a handler of its own in the place of SIGTERM's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
