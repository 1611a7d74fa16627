"""The run directory of a probe run: what the report is made from, and how it is written and read.

probe.json        the file's keys, data, cells with their checkpoints, machine
probes.parquet    one row per data, target, probe, pool, cell and tap, with one entry per test image
density.parquet   one row per cell and decoder layer, with one entry per image
dense.parquet     one row per cell and tap (after --dense), with one entry per scene
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vr_eval.errors import InputError, Problem
from vr_eval.records.frame import write_frame
from vr_eval.records.json_file import write_json

ABOUT, PROBES, DENSITY, DENSE = "probe.json", "probes.parquet", "density.parquet", "dense.parquet"
_KEYS = {
    PROBES: ("data", "target", "probe", "pool", "cell", "tap", "strength", "heldout", "correct", "control"),
    DENSITY: ("cell", "layer", "share", "even"),
    DENSE: ("cell", "tap", "strength", "correct", "total"),
}


@dataclass(frozen=True)
class ProbeRun:
    """What a run directory holds.

    Attributes:
        about: `probe.json`.
        probes: `probes.parquet`.
        density: `density.parquet`, possibly empty.
        dense: `dense.parquet`, possibly empty.
    """

    path: Path
    about: dict[str, Any]
    probes: pd.DataFrame
    density: pd.DataFrame
    dense: pd.DataFrame


def write_run(
    run_dir: Path,
    about: dict[str, Any],
    probes: Sequence[dict[str, Any]],
    density: Sequence[dict[str, Any]],
    dense: Sequence[dict[str, Any]] | None,
) -> None:
    """Write all of it, `probe.json` last; `dense` None leaves an earlier one as it is."""
    for name, rows in ((PROBES, probes), (DENSITY, density), (DENSE, dense)):
        if rows is not None:
            write_frame(pd.DataFrame(list(rows), columns=list(_KEYS[name])), run_dir / name)
    write_json(about, run_dir / ABOUT)


def is_probe_run(run_dir: Path) -> bool:
    """Whether a folder holds the results of probes."""
    return (run_dir / ABOUT).is_file()


def read_run(run_dir: Path) -> ProbeRun:
    """Raises InputError where the folder holds no complete probe run."""
    frames = {}
    try:
        about = json.loads((run_dir / ABOUT).read_text(encoding="utf-8"))
        known = {cell["id"] for cell in about["cells"]}
        for name, keys in _KEYS.items():
            path = run_dir / name
            frame = pd.DataFrame(columns=list(keys)) if name == DENSE and not path.is_file() else pd.read_parquet(path)
            frames[name] = frame[list(keys)][frame["cell"].isin(known)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "Run `vr-eval probe FILE` again: features that are stored are not computed again."
        message = f"this folder holds no complete probe run: {reason}"
        raise InputError(Problem(message, file=str(run_dir), hint=hint)) from error
    return ProbeRun(run_dir, about, frames[PROBES], frames[DENSITY], frames[DENSE])
