"""One training stage through the Hugging Face Trainer: schedule, parameter groups, resume, no silent NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from vr_eval.errors import VrEvalError
from vr_eval.training.muon import Float32Muon, MuonAdamW


@dataclass(frozen=True)
class Group:
    """Parameters that learn at one peak rate."""

    parameters: Sequence[nn.Parameter]
    lr: float
    muon: bool = False
    """Updated by Muon, which is for matrices between hidden states, instead of AdamW."""


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage trains."""

    name: str
    steps: int
    batch_size: int
    warmup: float
    weight_decay: float = 0.0
    save_every: int = 200
    schedule: str = "cosine"
    """A scheduler type of the Trainer: what the learning rate does after the warm-up."""


class NonFiniteLoss(TrainerCallback):
    """Stops a run whose loss is no number; the last checkpoint before it stays on disk."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The log comes before the checkpoint: nothing is saved, the last steps included, that was not looked at.
        control.should_log |= control.should_save

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise VrEvalError(
                f"training stopped at step {state.global_step}: the loss is {loss}. "
                f"Lower the learning rate; the last good checkpoint is in {args.output_dir}."
            )


def fast_bfloat16(cpu: bool) -> bool:
    """Whether matrix products run faster in bfloat16 here: weights stay float32, autocast does the rest."""
    if not cpu:
        return torch.cuda.is_bf16_supported()
    # Without the instructions a CPU emulates bfloat16, several times slower than float32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fit(
    model: nn.Module,
    dataset: Dataset[dict[str, Any]],
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
    stage: Stage,
    groups: Sequence[Group],
    out: Path,
    seed: int,
    device: str = "auto",
) -> list[dict[str, float]]:
    """Train the parameters of `groups` and nothing else; continue from the newest checkpoint under `out`.

    `device`: `cpu`, or what the Trainer picks (`auto`: GPUs if there are any). Returns the log: step, loss and learning
    rate, every 10 steps and before every checkpoint.

    Raises:
        VrEvalError: the loss is not finite.
    """
    if stage.steps == 0:
        return []
    newest = get_last_checkpoint(str(out)) if out.is_dir() else None
    if newest is not None and Path(newest).name == f"checkpoint-{stage.steps}":
        # Finished before a later stage was interrupted; the Trainer would take one more step.
        load_model(model, Path(newest) / "model.safetensors")
        return _losses(TrainerState.load_from_json(str(Path(newest) / "trainer_state.json")))
    model.requires_grad_(False)
    for group in groups:
        for parameter in group.parameters:
            parameter.requires_grad_(True)
    cpu = device == "cpu" or not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size,
        lr_scheduler_type=stage.schedule,
        warmup_steps=round(stage.warmup * stage.steps),
        max_grad_norm=1.0,
        logging_steps=10,
        logging_nan_inf_filter=False,
        save_steps=stage.save_every,
        save_total_limit=1,
        report_to=[],
        seed=seed,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=cpu,
        bf16=fast_bfloat16(cpu),
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collate,
        optimizers=(_optimizer(groups, stage.weight_decay), None),
        callbacks=[NonFiniteLoss()],
    )
    trainer.train(resume_from_checkpoint=newest)
    return _losses(trainer.state)


def _optimizer(groups: Sequence[Group], weight_decay: float) -> torch.optim.Optimizer:
    by_adamw, by_muon = (
        [{"params": list(group.parameters), "lr": group.lr} for group in groups if group.muon is muon]
        for muon in (False, True)
    )
    adamw = torch.optim.AdamW(by_adamw, betas=(0.9, 0.98), weight_decay=weight_decay)
    if not by_muon:
        return adamw
    return MuonAdamW(Float32Muon(by_muon, weight_decay=weight_decay), adamw)


def _losses(state: TrainerState) -> list[dict[str, float]]:
    return [entry for entry in state.log_history if "loss" in entry]
