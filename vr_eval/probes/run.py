"""`vr-eval probe`: from a probe file to its run directory. Nothing heavy is imported before the file is known good."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vr_eval.checksums import DamagedError
from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint, origin_of
from vr_eval.config.identity import checkpoint_id
from vr_eval.environment import Environment
from vr_eval.errors import InputError, Problem, VrEvalError
from vr_eval.paths import home
from vr_eval.places import check_all, check_home, check_temporary
from vr_eval.probes.about import ProbedCell, ProbedData, ProbeRecord
from vr_eval.probes.file import ProbePlan, label_of, probe_id, same_without_refusion
from vr_eval.probes.workers import read_ahead
from vr_eval.records.folder import RUN_LEASE, RunFolder
from vr_eval.runs.executors.options import ALONE, WorkerOptions
from vr_eval.runs.folder import ANOTHER, check_place, is_empty
from vr_eval.runs.lease import check_free, leased
from vr_eval.runs.plan import duration
from vr_eval.runs.progress import Progress


def run_probes(
    plan: ProbePlan,
    out: Path | None = None,
    device: str = "auto",
    *,
    dense: bool = False,
    options: WorkerOptions = ALONE,
) -> int:
    """Probe every cell that has a checkpoint, write results and report; returns the exit code.

    A cell that fails does not stop the others: the exit code is then 1, or 2 where files of a checkpoint are damaged.

    Args:
        out: The run directory; default ``runs/NAME``.
        device: ``auto`` takes a GPU if there is one.
        dense: Per-token probes too.
        options: Who reads features; default this process.

    Raises:
        InputError: The run directory, the workers, the device, the data or the feature store cannot be used, or no cell
            has a checkpoint; results of an earlier run stay as they were.
    """
    options.check()
    run_dir = out or plan.run_dir
    _check_run_dir(run_dir, plan)
    check_free(RunFolder(run_dir).leases, RUN_LEASE)
    found = [(cell, find_checkpoint(cell)) for cell in plan.cells]
    ready = [(cell, folder) for cell, folder in found if folder is not None or cell.random_weights]
    lacking = [cell for cell, folder in found if folder is None and not cell.random_weights]
    if not ready:
        hint = f"Train them first: {_training(plan)}."
        raise InputError(Problem("no cell of these grids has a checkpoint", plan.source, key="grids", hint=hint))
    if lacking:
        names = ", ".join(label_of(cell, plan.cells) for cell in lacking)
        Progress.say(f"left out, as they have no checkpoint ({_training(plan)} would make it): {names}")
    check_all(check_home, check_temporary)
    from vr_eval.environment import describe, new_run_id
    from vr_eval.probes.data.load import load_data
    from vr_eval.probes.report import build
    from vr_eval.runs.device import pick_device

    started = time.monotonic()
    chosen, data = pick_device(device), load_data(plan.file)
    with leased(RunFolder(run_dir).leases, RUN_LEASE, f"runs {plan.file.name}"):
        read_ahead(plan, [cell for cell, _ in ready], run_dir, device, options)
        results = _probe(plan, ready, data, chosen, dense=dense)
        about = _about(plan, ready, lacking, data, results, describe(new_run_id()), time.monotonic() - started)
        from vr_eval.probes.records import write_run

        write_run(run_dir, about, results["probes"], results["density"], results["dense"] if dense else None)
        print(build(run_dir))
    weights = " on random weights" if plan.random_weights else ""
    Progress.say(f"{len(about.cells)} cells probed{weights} in {duration(about.seconds)}")
    return int(results["exit_code"])


def _probe(
    plan: ProbePlan, ready: list[tuple[Cell, Path | None]], data: Any, device: Any, *, dense: bool
) -> dict[str, Any]:
    from vr_eval.probes.session import Session, groups

    session = Session(plan.file, data, home() / "features", device, Progress.say)
    failed: dict[Cell, str] = {}
    exit_codes = {0}

    def fail(cell: Cell, error: Exception) -> None:
        reason = str(error) if isinstance(error, VrEvalError) else f"{type(error).__name__}: {error}"
        exit_codes.add(2 if isinstance(error, DamagedError) else 1)
        failed[cell] = (reason.strip().splitlines() or [""])[0]
        Progress.say(f"{label_of(cell, plan.cells)}: FAILED: {failed[cell]}")

    labels = {probe_id(cell): label_of(cell, plan.cells) for cell, _ in ready}
    for subjects in groups(session, ready, fail):
        Progress.say(f"features of {len(subjects)} models: {', '.join(labels[name] for name in subjects)}")
        session.read(subjects, dense=dense)
    if not session.taps:
        raise VrEvalError("no cell could be probed")
    if not any(session.taps.values()):
        named = ", ".join(plan.file.taps or ())
        raise InputError(Problem("no model of these grids has any of these taps", plan.source, key="taps", given=named))
    rows = session.fit()
    return {
        "probes": rows,
        "density": session.density,
        "dense": session.dense,
        "taps": session.taps,
        "failed": failed,
        "exit_code": max(exit_codes),
    }


def _about(
    plan: ProbePlan,
    ready: list[tuple[Cell, Path | None]],
    lacking: list[Cell],
    data: Any,
    results: Mapping[str, Any],
    environment: Environment,
    seconds: float,
) -> ProbeRecord:
    cells = []
    for cell, checkpoint in ready:
        if cell in results["failed"]:
            continue
        plain = same_without_refusion(cell, plan.cells)
        cells.append(
            ProbedCell(
                id=probe_id(cell),
                label=label_of(cell, plan.cells),
                projector=cell.projector,
                ratio=cell.ratio,
                refusion=cell.refusion,
                pruning=cell.pruning,
                image=cell.image,
                seed=cell.seed,
                tokens=cell.tokens,
                is_baseline=cell == plan.baseline,
                without_refusion=None if plain is None else probe_id(plain),
                taps=tuple(results["taps"][probe_id(cell)]),
                checkpoint=checkpoint_id(cell),
                origin=origin_of(checkpoint),
            )
        )
    spec = plan.cells[0].spec
    return ProbeRecord(
        file=plan.file,
        source=plan.source,
        question=_question(plan.source),
        backbone=spec.name,
        random_weights=plan.random_weights,
        tower_depth=spec.tower_depth,
        decoder_depth=spec.decoder_depth,
        data=tuple(
            ProbedData(one.name, one.summary, one.source, dict(one.targets), len(one.train), len(one.test))
            for one in data
        ),
        cells=tuple(cells),
        left_out=tuple(label_of(cell, plan.cells) for cell in lacking),
        failed={label_of(cell, plan.cells): reason for cell, reason in results["failed"].items()},
        environment=environment,
        seconds=round(seconds, 1),
    )


def _question(source: str) -> str:
    """The question that a probe file asks: its first comment line."""
    try:
        first = Path(source).read_text(encoding="utf-8-sig").partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return ""
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _training(plan: ProbePlan) -> str:
    return " and ".join(f"`vr-eval train {grid}`" for grid in plan.file.grids)


def _check_run_dir(run_dir: Path, plan: ProbePlan) -> None:
    if not check_place(run_dir):
        return
    probed = RunFolder(run_dir).probe.is_file()
    if not probed and not is_empty(run_dir):
        raise InputError(Problem("this folder is not empty and holds no probes", file=str(run_dir), hint=ANOTHER))
    if probed and _was_random(run_dir) == (not plan.random_weights):
        mine, theirs = ("random", "real") if plan.random_weights else ("real", "random")
        message = f"this folder holds probes of {theirs} weights, which never meet those of {mine} ones"
        raise InputError(Problem(message, file=str(run_dir), hint=ANOTHER))


def _was_random(run_dir: Path) -> bool | None:
    """Whether the probes in a run directory are of weights that were drawn; None where nobody can say."""
    try:
        return ProbeRecord.read(RunFolder(run_dir).probe).random_weights
    except InputError:  # broken: what is written now replaces it
        return None
