"""What every command calls; returns its exit code. Imports wait until their command runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vr_eval.errors import sanitize_terminal

if TYPE_CHECKING:
    from vr_eval.config.grid import Grid
    from vr_eval.methods.spec import MethodFile
    from vr_eval.runs.executors.options import WorkerOptions


def _load(options: argparse.Namespace) -> Grid:
    from vr_eval.config.grid import load_grid

    limit, batch_size = getattr(options, "limit", None), getattr(options, "batch_size", None)
    names = ("dtype", "attention", "bits", "device_map")
    loading = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    drawn = getattr(options, "random_weights", None)
    grid = load_grid(
        options.file, options.overrides, limit, options.backbone, batch_size, loading, drawn, options.tasks_path
    )
    _say_executed(grid.method_files)
    return grid


def _say_executed(files: Sequence[MethodFile]) -> None:
    """What was executed because a grid names it; the first of several processes speaks for all."""
    if files:
        from vr_eval.methods.method_file import describe
        from vr_eval.processes import is_first_process

        for file in files if is_first_process() else ():
            print(sanitize_terminal(describe(file)), file=sys.stderr)


def plan(options: argparse.Namespace) -> int:
    from vr_eval.runs.plan import plan_grid

    plan = plan_grid(_load(options), options.out)
    print(plan.to_json() if options.json else plan.to_text())
    return 0


def run(options: argparse.Namespace) -> int:
    grid = _load(options)
    from vr_eval.api.runs import run

    run(grid, options.out, options.device, grid.batch_size, options.track, _workers(options), options.features)
    return 0


def cell(options: argparse.Namespace) -> int:
    from vr_eval.runs.by_hand import do_cell

    return do_cell(options.run_dir, options.cell, options.shard)


def status(options: argparse.Namespace) -> int:
    from vr_eval.runs.status import status_of

    found = status_of(options.run_dir)
    print(found.to_json() if options.json else found.to_text())
    return 0


def _workers(options: argparse.Namespace) -> WorkerOptions:
    from vr_eval.runs.executors.options import WorkerOptions

    return WorkerOptions(
        executor=options.executor,
        workers=options.workers,
        shards=getattr(options, "shards", None),
        retries=options.retries,
        address=options.address,
        cpus=options.cpus,
        gpus=options.gpus,
        slurm=tuple(options.slurm),
    )


def train(options: argparse.Namespace) -> int:
    grid = _load(options)
    from vr_eval.processes import Spread
    from vr_eval.runs.train import train_grid
    from vr_eval.tracking import tracking

    track = tracking(options.track, grid.run_dir, grid.name)
    spread = Spread(options.device_batch, options.fsdp, options.checkpoint_activations)
    return train_grid(grid, device=options.device, spread=spread, track=track, options=_workers(options))


def bench(options: argparse.Namespace) -> int:
    grid = _load(options)
    from vr_eval.runs.bench import bench_grid
    from vr_eval.runs.progress import Progress

    bench = bench_grid(grid, options.device, options.repeats, Progress.say)
    print(bench.to_json() if options.json else bench.to_text())
    return 0


def probe(options: argparse.Namespace) -> int:
    from vr_eval.probes.file import load_probes

    plan = load_probes(options.file, options.overrides, options.random_weights)
    _say_executed(plan.method_files)
    from vr_eval.probes.run import run_probes

    return run_probes(plan, out=options.out, device=options.device, dense=options.dense, options=_workers(options))


def report(options: argparse.Namespace) -> int:
    from vr_eval.api import runs

    print(runs.report(options.run_dir))
    return 0


def push(options: argparse.Namespace) -> int:
    from vr_eval.publish.push import card_of, push_to_hub

    given = (options.source, options.repo, options.cell, options.license)
    print(card_of(*given) if options.card else push_to_hub(*given, private=options.private))
    return 0


def list_what(options: argparse.Namespace) -> int:
    from vr_eval import listing

    if options.grid is not None:
        from vr_eval.config.grid import load_grid

        _say_executed(load_grid(options.grid).method_files)
    if options.what == "methods":
        print(listing.list_methods(options.backbone, options.parameters))
    elif options.what == "backbones":
        print(listing.list_backbones())
    else:
        print(listing.list_tasks() if options.what == "tasks" else listing.list_ablations())
    return 0


def doctor(options: argparse.Namespace) -> int:
    grid = _load(options) if options.file is not None else None
    from vr_eval.doctor.examine import examine

    text, code = examine(grid)
    print(text)
    return code


def fetch(options: argparse.Namespace) -> int:
    grid = _load(options)
    from vr_eval.doctor.fetch import fetch_grid
    from vr_eval.runs.progress import Progress

    return fetch_grid(grid, Progress.say)


def import_weights(options: argparse.Namespace) -> int:
    from vr_eval.models.importing import import_official

    print(import_official(options.source, options.path, options.out).to_text())
    return 0


def micro_build(options: argparse.Namespace) -> int:
    from vr_eval.micro.build.weights import build_all

    build_all()
    return 0
