"""Trains one cell in two stages (training/stages.py) and writes its checkpoint."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

from vr_eval.config.cell import Cell
from vr_eval.config.identity import checkpoint_id, checkpoint_identity
from vr_eval.files import write_atomic
from vr_eval.methods.registry import NONE
from vr_eval.models.build import build_lvlm
from vr_eval.models.checkpoints import save_checkpoint, save_reference
from vr_eval.models.hub import commits
from vr_eval.models.lvlm import LVLM
from vr_eval.processes import ALONE, Spread, is_first_process
from vr_eval.tracking import NOT_TRACKED, Tracking
from vr_eval.training.sources import samples_of
from vr_eval.training.stages import CellStage, describe, stages_of
from vr_eval.training.templates import ask_as_trained
from vr_eval.training.trainer import Group, Schedule, fit, load_trained


def train_cell(
    cell: Cell, folder: Path, device: str = "auto", spread: Spread = ALONE, track: Tracking = NOT_TRACKED
) -> None:
    """Train `cell` and write its checkpoint to `folder`; an interrupted training continues where it saved last.

    Prints what each stage trains, and how fast.

    Raises:
        InputError: the backbone's weights or the training data are not there.
        VrEvalError: the loss is not finite.
    """
    started = time.monotonic()
    # A checkpoint serves every cell that prunes it in its own way, and its own bare model.
    free = {method.name for method in cell.methods if not method.trainable}
    options = {name: given for name, given in cell.options.items() if name not in free}
    cell = dataclasses.replace(cell, pruning=NONE, image=NONE, options=options)
    about = {"checkpoint_id": checkpoint_id(cell), "identity": checkpoint_identity(cell), "label": cell.label}
    if cell.pretrained and cell.spec.checkpoint is not None:
        if is_first_process():
            save_reference(cell.spec.checkpoint, folder, {**about, "template": cell.spec.template})
        return
    model, processor = build_lvlm(cell)
    recipe = cell.recipe
    work = folder.with_name(f"{folder.name}.training")
    stages = _stages(cell, model)
    # Looked at before anything is trained: what is wrong with the data of stage 2 is known before stage 1.
    samples = samples_of(cell, stages, model, processor)
    if is_first_process():
        print(f"{cell.label}, seed {cell.seed}\n{describe(stages)}", flush=True)
    logs = {}
    for number in range(len(stages)):
        part = stages[number]
        stage = Schedule(part.name, part.steps, recipe.batch(part.number), recipe.warmup, recipe.weight_decay)
        groups = [Group(trained.parameters, trained.lr) for trained in part.trained]
        own, out = samples[part.name], work / part.name
        tracked = track.named(cell.label, f"seed={cell.seed}", part.name)
        logs[part.name] = fit(
            model, own.dataset, own.collate, stage, groups, out, cell.seed, device, own.lengths, spread, tracked
        )
        if spread.sharded:
            model, processor = build_lvlm(cell)
            load_trained(model, stage, out)
            stages = _stages(cell, model)
    if not is_first_process():
        return
    manifest = {
        **about,
        "recipe": dataclasses.asdict(recipe),
        "final_loss": {name: log[-1]["loss"] for name, log in logs.items() if log},
        "loss": {name: [[int(entry["step"]), entry["loss"]] for entry in log] for name, log in logs.items()},
        "sources": _commits(cell),
        "train_seconds": round(time.monotonic() - started, 1),
        **({"data": found} if (found := {name: own.about for name, own in samples.items() if own.about}) else {}),
    }
    for name, own in samples.items():
        if own.broken is not None:
            write_atomic(folder / f"{name}.broken.csv", own.broken)
    ask_as_trained(processor, recipe)
    save_checkpoint(model, processor, folder, manifest)
    shutil.rmtree(work, ignore_errors=True)


def _commits(cell: Cell) -> dict[str, str]:
    """What the backbone was loaded from, to the commit: this process saw one of each."""
    from vr_eval.models.pretrained import named_tower

    tower = named_tower(cell.spec.checkpoint) if cell.spec.checkpoint is not None else None
    return commits([*cell.spec.sources, *([tower] if tower is not None else [])])


def _stages(cell: Cell, model: LVLM) -> list[CellStage]:
    return [stage for stage in stages_of(cell, model) if stage.steps]
