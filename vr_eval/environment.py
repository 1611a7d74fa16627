"""What a run was made with: versions, machine, commit and command line."""

from __future__ import annotations

import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vr_eval.paths import PACKAGE

PACKAGES = (
    *("vr-eval", "torch", "torchvision", "transformers", "lmms-eval", "datasets", "accelerate", "safetensors"),
    *("tokenizers", "numpy", "pandas", "pyarrow", "pillow"),
)


@dataclass(frozen=True)
class Checkout:
    """Of this package: its commit, and whether files differ from it."""

    commit: str
    dirty: bool


@dataclass(frozen=True)
class Environment:
    """What a run was made with.

    Attributes:
        run_id: Names the call of the command.
        started: ISO 8601, UTC.
        command: Its command line.
        git: None for an installed package.
        versions: Package to version, None where it is not installed.
        platform: Operating system.
        cpu: Model and cores.
        torch_threads: Threads of torch.
        gpu: All devices, None where there is none.
    """

    run_id: str
    started: str
    command: str
    git: Checkout | None
    versions: Mapping[str, str | None]
    platform: str
    cpu: str
    torch_threads: int
    gpu: str | None


def new_run_id() -> str:
    """Names one call of the command, e.g. ``20261123-101500-7f3a``; sorts by time (UTC)."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def describe(run_id: str) -> Environment:
    """The environment of this process; needs torch, whose threads and devices are part of it."""
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Environment(
        run_id=run_id,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=_command(),
        git=_git(),
        versions={"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        platform=platform.platform(),
        cpu=f"{_cpu()}, {_cores()} cores",
        torch_threads=torch.get_num_threads(),
        gpu=", ".join(devices) or None,
    )


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> Checkout | None:
    """Commit of the checkout that this package lies in; None for an installed package."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        commit = _ask_git("rev-parse", "HEAD")
        return Checkout(commit, dirty=bool(_ask_git("status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):  # no git, or no commit yet
        return None


def _ask_git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def _cores() -> int | None:
    """Cores that this process may use, which a container can limit; all of the machine's where that is not known."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu() -> str:
    """The model's name, which `platform.processor` does not know on Linux."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()
