"""One training stage through the Hugging Face Trainer: schedule, parameter groups, resume, no silent NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from vr_eval.errors import InputError, Problem, VrEvalError
from vr_eval.processes import ALONE, Spread, processes
from vr_eval.tracking import NOT_TRACKED, Tracking
from vr_eval.training.muon import Float32Muon, MuonAdamW


@dataclass(frozen=True)
class Group:
    """Parameters that learn at one peak rate."""

    parameters: Sequence[nn.Parameter]
    lr: float
    muon: bool = False
    """Updated by Muon, which is for matrices between hidden states, instead of AdamW."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast one stage trains."""

    name: str
    steps: int
    batch_size: int
    warmup: float
    weight_decay: float = 0.0
    save_every: int = 200
    curve: str = "cosine"
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
    stage: Schedule,
    groups: Sequence[Group],
    out: Path,
    seed: int,
    device: str = "auto",
    lengths: Sequence[int] | None = None,
    spread: Spread = ALONE,
    track: Tracking = NOT_TRACKED,
) -> list[dict[str, float]]:
    """Train the parameters of `groups` and nothing else; continue from the newest checkpoint under `out`.

    The batch of a stage is that of all processes together, whatever their number. A model whose weights are spread over
    them is of no more use afterwards: `load_trained` puts what it learned into another.

    Args:
        device: `cpu`, or what the Trainer picks (`auto`: GPUs if there are any).
        lengths: tokens of each sample; batches are then made of samples of like lengths.
        spread: how the work is laid out.
        track: who draws the curves.

    Returns:
        The log: step, loss and learning rate, every 10 steps and before every checkpoint.

    Raises:
        InputError: the batch does not divide among the processes, or there is one where several are needed.
        VrEvalError: the loss is not finite.
    """
    if stage.steps == 0:
        return []
    newest = _newest(out)
    if newest is not None and newest.name == f"checkpoint-{stage.steps}":
        # Finished before a later stage was interrupted; the Trainer would take one more step.
        load_trained(model, stage, out)
        return _losses(TrainerState.load_from_json(str(newest / "trainer_state.json")))
    model.requires_grad_(False)
    for group in groups:
        for parameter in group.parameters:
            parameter.requires_grad_(True)
    cpu = device == "cpu" or not torch.cuda.is_available()
    at_once, accumulated = shares(stage.batch_size, processes(), spread.device_batch)
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=stage.steps,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=accumulated,
        lr_scheduler_type=stage.curve,
        warmup_steps=round(stage.warmup * stage.steps),
        max_grad_norm=1.0,
        logging_steps=10,
        logging_nan_inf_filter=False,
        save_steps=stage.save_every,
        save_total_limit=1,
        seed=seed,
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and processes() > 1 else None,
        # The layers of a tower above the one that is read have no gradient.
        ddp_find_unused_parameters=True,
        dataloader_num_workers=0 if cpu or lengths is None else 8,
        bf16=fast_bfloat16(cpu),
        activation_checkpointing=spread.checkpoint_activations,
        **track.arguments,
        **(_sharding(model, cpu) if spread.sharded else {}),
    )
    if arguments.n_gpu > 1:  # one process: the Trainer would give each of the GPUs a batch
        arguments._n_gpu = 1
    with track.curves():
        trainer = StageTrainer(
            groups,
            stage,
            lengths,
            model=model,
            args=arguments,
            train_dataset=dataset,
            data_collator=collate,
            callbacks=[NonFiniteLoss()],
        )
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    return _losses(trainer.state)


def _newest(out: Path) -> Path | None:
    """The last checkpoint that is whole: a process may be killed while it writes one."""
    found = sorted(out.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return next((path for path in reversed(found) if _whole(path)), None)


def _whole(checkpoint: Path) -> bool:
    """Whether its state is there, which the Trainer writes last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())
    except (OSError, ValueError):
        return False
    return True


def load_trained(model: nn.Module, stage: Schedule, out: Path) -> None:
    """Put what `fit` wrote at the end of `stage` to `out` into `model`."""
    load_model(model, out / f"checkpoint-{stage.steps}" / "model.safetensors")


class StageTrainer(Trainer):
    """A Trainer of one stage: its own parameter groups, and the same batches for any number of processes."""

    def __init__(self, groups: Sequence[Group], stage: Schedule, lengths: Sequence[int] | None, **kwargs: Any) -> None:
        """`lengths` of the samples in tokens, or None to draw them as the Trainer does."""
        super().__init__(**kwargs)
        self.groups, self.stage, self.lengths = groups, stage, lengths

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, or AdamW and Muon, over the stage's groups; FSDP takes no optimizer that is made beforehand."""
        self.optimizer = _optimizer(self.groups, self.stage.weight_decay)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.lengths is None:
            return super()._get_train_sampler(train_dataset)
        return WholeBatches(self.lengths, self.stage.batch_size, self.args.seed)


class WholeBatches(LengthGroupedSampler):
    """Rows of like lengths together, as many as fill whole batches, in an order that depends on seed and epoch alone.

    The Trainer's own choice groups by a process's share of a batch, and several processes fill up what is left over at
    the end of an epoch: other batches for each number of processes. Nor does it begin a resumed epoch anew.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        """`lengths` of the rows in tokens; `batch_size` of all processes together."""
        super().__init__(batch_size, lengths=list(lengths), generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The Trainer says which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch)
        return islice(super().__iter__(), len(self))


def shares(batch_size: int, world: int, at_once: int | None = None) -> tuple[int, int]:
    """Samples that one process takes at once, and how often, to make up `batch_size` together.

    Raises:
        InputError: there is no whole number of them.
    """
    at_once = at_once or max(batch_size // world, 1)
    if batch_size % (world * at_once):
        message = f"a batch of {batch_size} does not divide among {world} processes of {at_once} samples at once"
        hint = "Give another --device-batch, recipe.batch_size or number of processes."
        raise InputError(Problem(message, key="recipe.batch_size", given=batch_size, hint=hint))
    return at_once, batch_size // (world * at_once)


def _sharding(model: nn.Module, cpu: bool) -> dict[str, Any]:
    """Arguments of the Trainer that spread weights, gradients and optimizer over the processes (FSDP2).

    Raises:
        InputError: there is one process, or no GPU for each: accelerate spreads nothing over CPUs, and does not say so.
    """
    if processes() == 1 or cpu:
        hint = "Start it as `torchrun --nproc-per-node N -m vr_eval train FILE --fsdp`."
        raise InputError(Problem("--fsdp needs several processes with a GPU each", hint=hint))
    return {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": sorted(layers_of(model))}}


def layers_of(model: nn.Module) -> set[str]:
    """Classes of its decoder and tower layers, as transformers names them for placing a model on devices."""
    return {type(module).__name__ for module in model.modules()} & set(getattr(model, "_no_split_modules", None) or ())


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
