"""Curves while training and the results at the end, kept by a tracker: ``--track``. Light: a tracker comes when used.

Curves are drawn by the Trainer's own integrations, which read where to from the environment. Nothing is sent anywhere
unless the user's environment says so (``WANDB_MODE=online``).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vr_eval.errors import InputError, Problem
from vr_eval.processes import is_first_process

TOOLS = ("none", "tensorboard", "wandb", "trackio")
"""What ``--track`` takes; each but `none` is an extra of this package."""
REPORT = "report.html"
TABLES = ("table.csv", "table.md")


@dataclass(frozen=True)
class Tracking:
    """Who keeps curves and results, where, and under which name.

    Attributes:
        tool: One of ``TOOLS``.
        folder: On this machine.
        project: The grid's name.
        name: What is trained.
    """

    tool: str = "none"
    folder: Path = Path("runs")
    project: str = "vr-eval"
    name: str = ""

    def named(self, *parts: object) -> Tracking:
        """The same for one training, e.g. a cell's label, its seed and the stage."""
        return dataclasses.replace(self, name=re.sub(r"[^\w.=+-]+", "-", " ".join(map(str, parts))))

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of ``TrainingArguments``."""
        if self.tool == "none":
            return {"report_to": []}
        return {"report_to": [self.tool], "run_name": self.name, "project": self.project, "trackio_space_id": None}

    @contextmanager
    def curves(self) -> Iterator[None]:
        """While one training runs: where the Trainer's integrations write to. Ends what they began."""
        with _set(self._environment()):
            try:
                yield
            finally:  # of a training that failed too: the next one would go on in its curve
                if self.tool == "wandb" and is_first_process():
                    import wandb

                    wandb.finish()

    def keep_results(self, run_dir: Path) -> None:
        """Give the tracker the table and the report of a finished run, if it has them."""
        if self.tool == "none" or not (run_dir / REPORT).is_file():
            return
        mine = self.named("report")
        with _set(mine._environment()):
            {"tensorboard": _to_tensorboard, "wandb": _to_wandb, "trackio": _to_trackio}[self.tool](mine, run_dir)

    def _environment(self) -> dict[str, str]:
        """Variables of the trackers; of those that say whether anything is sent, the user's own win."""
        if self.tool == "none":
            return {}
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = str(self.folder.absolute())
        if self.tool == "tensorboard":
            return {"TENSORBOARD_LOGGING_DIR": str(self.folder / self.name)}
        if self.tool == "trackio":
            return {"TRACKIO_DIR": os.environ.get("TRACKIO_DIR", folder)}
        given = {"WANDB_MODE": "offline", "WANDB_PROJECT": self.project, "WANDB_DIR": folder, "WANDB_SILENT": "true"}
        return {name: os.environ.get(name, value) for name, value in given.items()}


NOT_TRACKED = Tracking()


def tracking(tool: str, run_dir: Path, project: str) -> Tracking:
    """What ``--track TOOL`` asks for; it writes beside the run directory, which ``vr-eval train`` does not make.

    Raises:
        InputError: there is no such tracker, or its package is not installed.
    """
    if tool not in TOOLS:
        raise InputError(Problem("unknown tracker", "--track", given=tool, allowed=", ".join(TOOLS)))
    if tool != "none" and find_spec(tool) is None:
        hint = f"Install it: pip install 'vr-eval[{tool}]'"
        raise InputError(Problem(f"this needs the package {tool}", "--track", given=tool, hint=hint))
    return Tracking(tool, run_dir.with_name(f"{run_dir.name}.track"), project)


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """The environment with these variables, until the end of the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _to_tensorboard(tracked: Tracking, run_dir: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tracked.folder / tracked.name)) as writer:
        writer.add_text("table", (run_dir / "table.md").read_text(encoding="utf-8"))
        writer.add_text("report", str((run_dir / REPORT).absolute()))


def _to_wandb(tracked: Tracking, run_dir: Path) -> None:
    import pandas as pd
    import wandb

    with wandb.init(name=tracked.name, project=os.environ["WANDB_PROJECT"], job_type="report") as run:
        # Its tables take one type per column, and ours have empty fields beside numbers.
        run.log({"table": wandb.Table(dataframe=pd.read_csv(run_dir / "table.csv", dtype=str).fillna(""))})
        artifact = wandb.Artifact("report", type="report")
        for name in (REPORT, *TABLES):
            artifact.add_file(str(run_dir / name))
        run.log_artifact(artifact)


def _to_trackio(tracked: Tracking, run_dir: Path) -> None:
    import pandas as pd
    import trackio

    trackio.init(project=tracked.project, name=tracked.name)
    trackio.log({"table": trackio.Table(dataframe=pd.read_csv(run_dir / "table.csv", dtype=str).fillna(""))})
    trackio.finish()
