"""The arguments of every command, and its help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from vr_eval.cli import commands
from vr_eval.runs.drive import RETRIES
from vr_eval.runs.executors.options import EXECUTORS


class _Parser(argparse.ArgumentParser):
    """A parser whose help can end with a text that is made only when it is asked for."""

    tail: Callable[[], str] | None = None

    def format_help(self) -> str:
        text = super().format_help()
        return f"{text}\n{self.tail()}\n" if self.tail is not None else text


def parser() -> argparse.ArgumentParser:
    top = _Parser(
        prog="vr-eval", description="What saving vision tokens costs a vision-language model, and what brings it back."
    )
    kinds = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = kinds.add_parser("run", help="train what is missing, evaluate every cell, write the report")
    _add_grid(run)
    _add_out(run)
    _add_device(run)
    _add_loading(run)
    _add_random(run)
    run.add_argument(
        "--batch-size", metavar="N", type=_positive, help="questions answered at once (default: the file's)"
    )
    _add_features(run)
    _add_track(run)
    _add_workers(run)
    run.tail = _slurm_keys
    run.set_defaults(command=commands.run)

    cell = kinds.add_parser("cell", help="evaluate one cell of a run directory, as its workers do")
    cell.description = "Do one cell of a run that `vr-eval run` has begun, here; `vr-eval run` then goes on from it."
    cell.add_argument("run_dir", metavar="RUN", type=_path, help="run directory, e.g. runs/projectors")
    cell.add_argument("cell", metavar="ID", help="of the cell: `vr-eval plan --json` and `vr-eval status` name them")
    cell.add_argument("--shard", metavar="I/N", help="the Ith of N parts of its questions only; nothing is scored")
    cell.set_defaults(command=commands.cell)

    status = kinds.add_parser("status", help="where a run stands: what is done, what runs where, what failed why")
    status.add_argument("run_dir", metavar="RUN", type=_path, help="run directory, e.g. runs/projectors")
    status.add_argument("--json", action="store_true", help="print it as JSON")
    status.set_defaults(command=commands.status)

    plan = kinds.add_parser("plan", help="print what a run would do; creates nothing")
    plan.description = "Print the cells of a grid file, what is cached, what will be trained and the estimated time."
    plan.tail = _grid_keys
    _add_grid(plan)
    _add_out(plan)
    _add_loading(plan)
    _add_random(plan)
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.set_defaults(command=commands.plan)

    train = kinds.add_parser("train", help="train the missing checkpoints of a grid, evaluate nothing")
    _add_grid(train)
    _add_device(train)
    _add_spread(train)
    _add_track(train)
    _add_workers(train, shards=False)
    train.tail = _slurm_keys
    train.set_defaults(command=commands.train)

    bench = kinds.add_parser("bench", help="measure what the cells of a grid cost: time, parameters, GFLOPs")
    bench.description = (
        "Measure prefill, decode, parameters and GFLOPs of a grid's cells; trains, fetches and writes nothing: weights "
        "that are not on this machine are drawn, which takes the same time."
    )
    _add_grid(bench, limit=False)
    _add_device(bench)
    _add_loading(bench)
    _add_random(bench)
    bench.add_argument("--repeats", metavar="N", type=_positive, default=15, help="measured rounds (default: 15)")
    bench.add_argument("--json", action="store_true", help="print the result as JSON")
    bench.set_defaults(command=commands.bench)

    probe = kinds.add_parser("probe", help="find where visual information is lost: linear probes at every component")
    probe.description = "Fit linear probes to the vision tokens at every component of a grid's trained cells."
    probe.tail = _probe_keys
    probe.add_argument(
        "file", metavar="FILE", help="probe file, or `probe_tiny_imagenet`, which comes with the project"
    )
    _add_overrides(probe, "data=[digits]")
    _add_out(probe)
    _add_device(probe)
    _add_random(probe)
    probe.add_argument("--dense", action="store_true", help="per-token probes too: which glyph is under a token")
    _add_workers(probe, shards=False)
    probe.set_defaults(command=commands.probe)

    report = kinds.add_parser("report", help="rebuild the report of a run directory from its records")
    report.add_argument("run_dir", metavar="DIR", type=_path, help="run directory, e.g. runs/projectors")
    report.set_defaults(command=commands.report)

    push = kinds.add_parser("push", help="publish a checkpoint on the hub, with a model card made from its run")
    push.add_argument("source", metavar="SOURCE", help="run directory, checkpoint folder, or the id of a checkpoint")
    push.add_argument("repo", metavar="OWNER/NAME", help="model repository on the hub; made if it is not there")
    push.add_argument("--cell", metavar="LABEL", help="which of a run's cells: its label or id, or its checkpoint's id")
    push.add_argument("--license", metavar="NAME", help="as the hub names it (default: that of what it was made from)")
    push.add_argument("--private", action="store_true", help="make a new repository a private one")
    push.add_argument("--card", action="store_true", help="print the card, send nothing")
    push.set_defaults(command=commands.push)

    listing = kinds.add_parser("list", help="what there is: methods, backbones, ablations, official tasks")
    listing.add_argument("what", choices=("methods", "backbones", "ablations", "tasks"))
    listing.add_argument("--backbone", metavar="NAME", default="micro", help="backbone for token counts (micro)")
    listing.add_argument("--parameters", action="store_true", help="count what methods add there; takes seconds")
    listing.add_argument("--grid", metavar="FILE", help="methods: those of the method files of this grid too")
    listing.set_defaults(command=commands.list_what)

    doctor = kinds.add_parser("doctor", help="what this machine has, and what a grid still needs from the hub")
    doctor.description = "Print versions, devices, disks, the hub, and what is cached; downloads nothing."
    _add_grid(doctor, limit=False, optional=True)
    doctor.set_defaults(command=commands.doctor)

    fetch = kinds.add_parser("fetch", help="download the data and weights of a grid, to run it without network")
    fetch.description = "Download what a grid needs into the Hugging Face caches; run it again to go on."
    _add_grid(fetch, limit=False)
    fetch.set_defaults(command=commands.fetch)

    importing = kinds.add_parser("import", help="official weights under our names")
    importing.description = "Write the tensors of an official checkpoint to a new folder under our names."
    importing.add_argument(
        "source", metavar="SOURCE", help="whose checkpoint it is: tokenpacker, deepstack or cambrian"
    )
    importing.add_argument(
        "path", metavar="PATH", type=_path, help="weights file (safetensors or .bin), index or folder"
    )
    importing.add_argument("--out", metavar="DIR", type=_path, required=True, help="folder to write; must be new")
    importing.set_defaults(command=commands.import_weights)

    micro = kinds.add_parser("micro", help="the embedded backbone and its generated suites")
    actions = micro.add_subparsers(title="actions", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="rebuild tower, decoder and every shipped checkpoint from nothing")
    build.set_defaults(command=commands.micro_build)
    return top


MOST = 1_000_000
"""Largest number that an option takes."""


def _path(text: str) -> Path:
    # A shell leaves the ~ of --out=~/runs alone, which would then be a folder of that name.
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"there is no user with this home folder: {text!r}") from None


def _positive(text: str) -> int:
    # No longer than the largest one: Python reads no number of thousands of digits.
    number = int(text) if text.isdecimal() and len(text) <= len(str(MOST)) else 0
    if not 1 <= number <= MOST:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, at most {MOST}, not {text[:40]!r}")
    return number


def _count(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= MOST:
        raise argparse.ArgumentTypeError(f"must be a number, at least 0, at most {MOST}, not {text[:40]!r}")
    return number


def _add_grid(parser: argparse.ArgumentParser, *, limit: bool = True, optional: bool = False) -> None:
    text = "grid file, or the name of an ablation such as `projectors`"
    parser.add_argument("file", metavar="FILE", nargs="?" if optional else None, help=text)
    _add_overrides(parser, "recipe.stage2.steps=50 or seeds=[0,1]")
    if limit:
        parser.add_argument("--limit", metavar="N", type=_positive, help="first N questions of each task only")
    parser.add_argument("--backbone", metavar="NAME", help="backbone in place of the file's")
    text = "folder with tasks of your own beside those that the file names; may be given several times"
    parser.add_argument("--tasks-path", metavar="DIR", action="append", default=[], help=text)


def _add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    text = f"set a key of the file, e.g. {example}; may be given several times"
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides", help=text)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=_path, help="run directory (default: runs/NAME)")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="NAME", default="auto", help="cpu, cuda, cuda:1, ... (default: auto)")


def _add_spread(parser: argparse.ArgumentParser) -> None:
    text = "torchrun --nproc-per-node N -m vr_eval train FILE: one batch for all processes, the same result"
    spread = parser.add_argument_group("several processes, little memory", text)
    spread.add_argument(
        "--device-batch", metavar="N", type=_positive, help="samples at once per process (default: all of its share)"
    )
    spread.add_argument("--fsdp", action="store_true", help="spread weights and optimizer over the processes (FSDP2)")
    spread.add_argument(
        "--checkpoint-activations", action="store_true", help="compute activations twice instead of keeping them"
    )


def _add_track(parser: argparse.ArgumentParser) -> None:
    from vr_eval.tracking import TOOLS

    text = "who keeps curves and results, on this machine unless told otherwise (default: none)"
    parser.add_argument("--track", choices=TOOLS, default="none", help=text)


def _add_workers(parser: argparse.ArgumentParser, *, shards: bool = True) -> None:
    text = "cells are done side by side; records and report are the same, whoever does them"
    workers = parser.add_argument_group("who does it", text)
    workers.add_argument("--executor", choices=EXECUTORS, default="local", help="processes here, Ray or Slurm (local)")
    text = "tasks at once (default: as many as there are GPUs, or cores, or as the cluster gives)"
    workers.add_argument("--workers", metavar="N", type=_positive, help=text)
    if shards:
        text = "cut each cell's questions into N parts (default: as many as keep all workers busy)"
        workers.add_argument("--shards", metavar="N", type=_positive, help=text)
    text = f"what fails by itself is tried again so often (default: {RETRIES}); what lost its node, as often as needed"
    workers.add_argument("--retries", metavar="N", type=_count, default=RETRIES, help=text)
    workers.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster (default: one on this machine)")
    workers.add_argument("--cpus", metavar="N", type=_share, default=1.0, help="of Ray, cores of a task (default: 1)")
    text = "of Ray, GPUs of a task, 0.5 for two tasks on one (default: one, where this machine has one too)"
    workers.add_argument("--gpus", metavar="N", type=_share, help=text)
    text = "of Slurm: partition=NAME, gpus=1, minutes=120, ..., or a file of them; may be given several times"
    workers.add_argument("--slurm", metavar="KEY=VALUE", action="append", default=[], help=text)


def _add_features(parser: argparse.ArgumentParser) -> None:
    text = "folder that keeps vision features for all workers and later runs (default: vision in VR_EVAL_HOME), or off"
    parser.add_argument("--features", metavar="DIR", help=text)


def _add_random(parser: argparse.ArgumentParser) -> None:
    text = "weights drawn from a seed: true shapes, nothing fetched or trained; such results are marked as random"
    parser.add_argument("--random-weights", action="store_true", default=None, help=text)


def _add_loading(parser: argparse.ArgumentParser) -> None:
    loading = parser.add_argument_group("how weights are loaded", "default: as `vr-eval list backbones` says")
    loading.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    loading.add_argument("--attention", choices=("sdpa", "eager", "flash_attention_2"))
    loading.add_argument("--bits", type=int, choices=(4, 8), help="quantise the decoder (needs bitsandbytes)")
    loading.add_argument("--device-map", metavar="MAP", help="as accelerate takes it, e.g. auto")


def _grid_keys() -> str:
    from vr_eval.config.schema import document_keys

    return document_keys()


def _slurm_keys() -> str:
    from vr_eval.runs.executors.slurm_options import slurm_keys_text

    return "\n".join(["keys of --slurm:", *slurm_keys_text(80)])


def _probe_keys() -> str:
    from vr_eval.probes.options import document_keys

    return document_keys()
