"""Trains one cell in two stages (training/stages.py) and writes its checkpoint."""

from __future__ import annotations

import dataclasses
import shutil
import time
from functools import partial
from pathlib import Path

from vr_eval.config.cell import Cell
from vr_eval.config.identity import checkpoint_id, checkpoint_identity
from vr_eval.models.build import build_lvlm
from vr_eval.models.checkpoints import save_checkpoint, save_reference
from vr_eval.training.data import collate
from vr_eval.training.pixels import on_pixels
from vr_eval.training.sources import conversations
from vr_eval.training.stages import describe, stages_of
from vr_eval.training.trainer import Group, Stage, fit


def train_cell(cell: Cell, folder: Path, device: str = "auto") -> None:
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
    cell = dataclasses.replace(cell, pruning="none", options=options)
    about = {"checkpoint_id": checkpoint_id(cell), "identity": checkpoint_identity(cell), "label": cell.label}
    if cell.pretrained and cell.spec.checkpoint is not None:
        save_reference(cell.spec.checkpoint, folder, about)
        return
    model, processor = build_lvlm(cell)
    recipe = cell.recipe
    dataset = conversations(cell, model, processor)
    batches = partial(collate, pad_token_id=processor.tokenizer.pad_token_id)
    work = folder.with_name(f"{folder.name}.training")
    stages = stages_of(cell, model)
    print(f"{cell.label}, seed {cell.seed}\n{describe(stages)}", flush=True)
    logs = {}
    for part in stages:
        stage = Stage(part.name, part.steps, recipe.batch_size, recipe.warmup, recipe.weight_decay)
        groups = [Group(trained.parameters, trained.lr) for trained in part.trained]
        # Features that are kept are those of a frozen tower.
        data = on_pixels(dataset, cell, processor.image_processor) if part.needs_pixels else dataset
        logs[part.name] = fit(model, data, batches, stage, groups, work / part.name, cell.seed, device)
    manifest = {
        **about,
        "recipe": dataclasses.asdict(recipe),
        "final_loss": {name: log[-1]["loss"] for name, log in logs.items() if log},
        "loss": {name: [[int(entry["step"]), entry["loss"]] for entry in log] for name, log in logs.items()},
        "train_seconds": round(time.monotonic() - started, 1),
    }
    save_checkpoint(model, processor, folder, manifest)
    shutil.rmtree(work, ignore_errors=True)
