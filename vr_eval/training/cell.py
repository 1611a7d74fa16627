"""Trains one cell: stage 1 the parameters of its methods, stage 2 those and the decoder; the tower stays frozen."""

from __future__ import annotations

import dataclasses
import shutil
import time
from functools import partial
from pathlib import Path

from vr_eval.config.cell import Cell
from vr_eval.config.identity import checkpoint_id, checkpoint_identity
from vr_eval.models.build import build_lvlm
from vr_eval.models.checkpoints import save_checkpoint
from vr_eval.models.lvlm import LVLM
from vr_eval.training.data import collate
from vr_eval.training.sources import conversations
from vr_eval.training.trainer import Group, Stage, fit


def train_cell(cell: Cell, folder: Path, device: str = "auto") -> None:
    """Train `cell` and write its checkpoint to `folder`; an interrupted training continues where it saved last.

    Raises:
        InputError: the backbone's weights or the training data are not there.
        VrEvalError: the loss is not finite.
    """
    started = time.monotonic()
    # A checkpoint serves every cell that prunes it in its own way, and its own bare model.
    free = {method.name for method in cell.methods if not method.trainable}
    options = {name: given for name, given in cell.options.items() if name not in free}
    cell = dataclasses.replace(cell, pruning="none", options=options)
    model, processor = build_lvlm(cell)
    recipe = cell.recipe
    dataset = conversations(cell, model, processor)
    batches = partial(collate, pad_token_id=processor.tokenizer.pad_token_id)
    work = folder.with_name(f"{folder.name}.training")
    new, decoder = method_parameters(model), list(model.language_model.parameters())
    stages = (
        ("stage1", recipe.stage1_steps, [Group(new, recipe.lr_projector)]),
        ("stage2", recipe.stage2_steps, [Group(new, recipe.lr_projector), Group(decoder, recipe.lr_decoder)]),
    )
    logs = {}
    for name, steps, groups in stages:
        stage = Stage(name, steps, recipe.batch_size, recipe.warmup, recipe.weight_decay)
        logs[name] = fit(model, dataset, batches, stage, groups, work / name, cell.seed, device)
    manifest = {
        "checkpoint_id": checkpoint_id(cell),
        "identity": checkpoint_identity(cell),
        "label": cell.label,
        "recipe": dataclasses.asdict(recipe),
        "final_loss": {name: log[-1]["loss"] for name, log in logs.items() if log},
        "loss": {name: [[int(entry["step"]), entry["loss"]] for entry in log] for name, log in logs.items()},
        "train_seconds": round(time.monotonic() - started, 1),
    }
    save_checkpoint(model, processor, folder, manifest)
    shutil.rmtree(work, ignore_errors=True)


def method_parameters(model: LVLM) -> list:
    """The parameters that a cell adds to its backbone: those of its projector and refusion method."""
    modules = (model.projector, model.refusion)
    return [parameter for module in modules if module is not None for parameter in module.parameters()]
