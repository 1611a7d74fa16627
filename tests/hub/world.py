"""A user's machine with a hub: commands run as processes of their own, with the real libraries and empty caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hub.server import Asked, Hub

ROOT = Path(__file__).resolve().parents[2]
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT", "TMPDIR", "OMP_NUM_THREADS")
_SEVERAL = """
import json, sys
from vr_eval.cli import main
codes = []
for arguments in json.loads(sys.argv[1]):
    print("$ vr-eval", *arguments, flush=True)
    print("$ vr-eval", *arguments, file=sys.stderr, flush=True)
    codes.append(main(arguments))
print("codes", json.dumps(codes), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """What a process left behind.

    Attributes:
        asked: What it asked the hub.
    """

    code: int
    out: str
    err: str
    asked: list[Asked]

    def files(self) -> list[str]:
        """Large files that were asked for, in order."""
        return [one.path for one in self.asked if one.host == "storage"]


@dataclass
class World:
    """A working directory, a home and a cache under `folder`, and the hub that `hub` is.

    Attributes:
        extra: Environment of every process.
    """

    folder: Path
    hub: Hub
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("home", "work"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def work(self) -> Path:
        """Where commands run."""
        return self.folder / "work"

    @property
    def cache(self) -> Path:
        """HF_HOME."""
        return self.folder / "hf"

    def environment(self, **more: str) -> dict[str, str]:
        """Nothing of the tests' own but the interpreter's: no proxy, no login, no cache, no switch."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        own = {
            "HOME": str(self.folder / "home"),
            "HF_HOME": str(self.cache),
            "HF_ENDPOINT": self.hub.address,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "VR_EVAL_HOME": str(self.folder / "home" / "vr-eval"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        return kept | own | self.extra | more

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """A Python process with these arguments."""
        pipe = subprocess.PIPE
        command = [sys.executable, *arguments]
        return subprocess.Popen(
            command, cwd=self.work, env=self.environment(**more), stdout=pipe, stderr=pipe, text=True
        )

    def python(self, *arguments: str, **more: str) -> Done:
        """Run Python with these arguments, and these variables in its environment."""
        return self.shell([sys.executable, *arguments], **more)

    def shell(self, command: Sequence[str], **more: str) -> Done:
        """Run any command, in which $PYTHON is the interpreter."""
        self.hub.take()
        environment = self.environment(PYTHON=sys.executable, **more)
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True, check=False)
        return Done(done.returncode, done.stdout, done.stderr, self.hub.take())

    def run(self, *arguments: str, **more: str) -> Done:
        """Run `python -m vr_eval` with these arguments."""
        return self.python("-m", "vr_eval", *arguments, **more)

    def run_all(self, *commands: Sequence[str], **more: str) -> tuple[list[int], Done]:
        """Run several commands in one process, which imports torch once; their exit codes."""
        done = self.python("-c", _SEVERAL, json.dumps([list(command) for command in commands]), **more)
        last = done.out.strip().splitlines()[-1] if done.out.strip() else ""
        codes: Any = json.loads(last.removeprefix("codes ")) if last.startswith("codes ") else []
        return codes, done

    def blobs(self) -> set[str]:
        """What the hub's library keeps of files, by ETag; parts of files have a dot in their name."""
        return {path.name for path in self.cache.glob("hub/*/blobs/*")}
