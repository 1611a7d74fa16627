"""What each stage of a cell's training changes: its parts, their numbers of parameters and their learning rates.

Stage 1 trains what the methods add to the backbone, stage 2 the decoder too, and the vision tower where the recipe
gives it a rate. Everything else is frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from vr_eval.config.cell import Cell
from vr_eval.methods.registry import METHODS, NONE
from vr_eval.models.lvlm import LVLM


@dataclass(frozen=True)
class Part:
    """A part of a model in one stage; `lr` is its peak learning rate, 0 where it is frozen."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    lr: float

    @property
    def count(self) -> int:
        """Numbers in its parameters."""
        return sum(parameter.numel() for parameter in self.parameters)


@dataclass(frozen=True)
class CellStage:
    """One stage of a cell: every parameter of the model is in one of its parts."""

    number: int
    steps: int
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """``stage1``, in folders and logs."""
        return f"stage{self.number}"

    @property
    def trained(self) -> tuple[Part, ...]:
        """The parts that learn."""
        return tuple(part for part in self.parts if part.lr)

    @property
    def needs_pixels(self) -> bool:
        """Whether the vision tower learns, so that its features cannot be computed beforehand."""
        return any(part.name == TOWER for part in self.trained)


TOWER = "vision tower"


def stages_of(cell: Cell, model: LVLM) -> tuple[CellStage, CellStage]:
    """Both stages of `cell`; parts without parameters are left out."""
    recipe = cell.recipe
    return (
        CellStage(1, recipe.stage1.steps, _parts(cell, model, 1, lr_decoder=0.0, lr_tower=0.0)),
        CellStage(2, recipe.stage2.steps, _parts(cell, model, 2, recipe.stage2.lr_decoder, recipe.stage2.lr_tower)),
    )


def describe(stages: Sequence[CellStage]) -> str:
    """What is trained and what is frozen, as it is printed before training."""
    lines = []
    for stage in stages:
        lines.append(f"stage {stage.number}: {stage.steps} steps")
        for part in stage.parts:
            rate = f"learning rate {part.lr:g}" if part.lr else "frozen"
            lines.append(f"  {part.name:<28} {part.count:>13,} parameters  {rate}")
    return "\n".join(lines)


def _parts(cell: Cell, model: LVLM, stage: int, lr_decoder: float, lr_tower: float) -> tuple[Part, ...]:
    recipe = cell.recipe
    parts = []
    for name, module in ((cell.projector, model.projector), (cell.refusion, model.refusion)):
        if name != NONE and module is not None:
            parts.append(_part(f"{METHODS[name].seam} {name}", module.parameters(), recipe.rate(name, stage)))
    if model.image_newline is not None:  # a new parameter too, which LLaVA trains with the decoder
        lr = recipe.rate(cell.projector, stage) if stage == 2 else 0.0
        parts.append(_part("newline between tiles", [model.image_newline], lr))
    parts.append(_part("decoder", model.language_model.parameters(), lr_decoder))
    parts.append(_part(TOWER, model.vision_tower.parameters(), lr_tower))
    return tuple(part for part in parts if part.parameters)


def _part(name: str, parameters: Iterable[nn.Parameter], lr: float) -> Part:
    return Part(name, tuple(parameters), lr)
