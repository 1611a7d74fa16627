"""The run directory of a probe run: what the report is made from, and how it is written and read.

probe.json        the file's keys, data, cells with their checkpoints, machine
probes.parquet    one row per data, target, probe, pool, cell and tap, with one entry per test image
density.parquet   one row per cell and decoder layer, with one entry per image
dense.parquet     one row per cell and tap (after --dense), with one entry per scene
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vr_eval.errors import InputError, Problem
from vr_eval.probes.about import AGAIN, ProbeRecord
from vr_eval.records.folder import RunFolder
from vr_eval.records.frame import write_frame

PROBES, DENSITY, DENSE = "probes.parquet", "density.parquet", "dense.parquet"
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
    about: ProbeRecord
    probes: pd.DataFrame
    density: pd.DataFrame
    dense: pd.DataFrame


def write_run(
    run_dir: Path,
    about: ProbeRecord,
    probes: Sequence[dict[str, Any]],
    density: Sequence[dict[str, Any]],
    dense: Sequence[dict[str, Any]] | None,
) -> None:
    """Write all of it, `probe.json` last; `dense` None leaves an earlier one as it is."""
    for name, rows in ((PROBES, probes), (DENSITY, density), (DENSE, dense)):
        if rows is not None:
            write_frame(pd.DataFrame(list(rows), columns=list(_KEYS[name])), run_dir / name)
    about.write(RunFolder(run_dir).probe)


def read_run(run_dir: Path) -> ProbeRun:
    """Raises InputError where the folder holds no complete probe run, or `probe.json` does not fit, with every key."""
    about = ProbeRecord.read(RunFolder(run_dir).probe)
    known = {cell.id for cell in about.cells}
    frames = {}
    try:
        for name, keys in _KEYS.items():
            path = run_dir / name
            frame = pd.DataFrame(columns=list(keys)) if name == DENSE and not path.is_file() else pd.read_parquet(path)
            frames[name] = frame[list(keys)][frame["cell"].isin(known)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"this folder holds no complete probe run: {reason}"
        raise InputError(Problem(message, file=str(run_dir), hint=AGAIN)) from error
    return ProbeRun(run_dir, about, frames[PROBES], frames[DENSITY], frames[DENSE])
