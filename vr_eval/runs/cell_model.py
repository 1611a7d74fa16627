"""The model of a cell, loaded when it is needed, and the numbers of it that a cell's record holds. Heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from vr_eval.catalog.backbone import Loading
from vr_eval.config.cell import Cell
from vr_eval.errors import InputError
from vr_eval.measure.flops import prefill_flops
from vr_eval.measure.parameters import parameter_counts
from vr_eval.models.build import cell_model, set_training_free
from vr_eval.models.lvlm import LVLM
from vr_eval.models.processor import Processor
from vr_eval.records.cell import CellRecord
from vr_eval.records.costs import Parameters, PrefillFlops
from vr_eval.records.folder import CellFolder


@dataclass(frozen=True)
class Numbers:
    """What is counted of a model."""

    parameters: Parameters
    prefill: PrefillFlops


@dataclass(frozen=True)
class Loaded:
    """A model in its inference version, where it is asked."""

    model: LVLM
    processor: Processor
    numbers: Numbers


class Models:
    """Loads models, and keeps the last one: cells that differ in training-free methods alone share a checkpoint."""

    def __init__(self, loading: Loading, device: torch.device) -> None:
        self.loading, self.device = loading, device
        self._checkpoint: Path | None = None
        self._kept: tuple[LVLM, Processor, Parameters] | None = None

    def of(self, cell: Cell, checkpoint: Path | None) -> Loaded:
        """The model of `cell` from its checkpoint (None: on random weights); what came before it is of no use then.

        Raises:
            VrEvalError: it cannot be loaded.
        """
        if self._kept is not None and checkpoint is not None and checkpoint == self._checkpoint:
            set_training_free(self._kept[0], cell)
        else:
            self._kept = None  # before the next one is loaded, or both would be in memory
            self._kept = self._load(cell, checkpoint)
            self._checkpoint = checkpoint
        model, processor, parameters = self._kept
        return Loaded(model, processor, Numbers(parameters, prefill_flops(model).rounded()))

    def _load(self, cell: Cell, checkpoint: Path | None) -> tuple[LVLM, Processor, Parameters]:
        model, processor = cell_model(cell, checkpoint, self.loading, self.device)
        parameters = parameter_counts(model)  # those that were trained: the inference version merges some
        model.to_inference()
        if not self.loading.placed:
            model.to(self.device)
        return model, processor, parameters


class CellModel:
    """The model of `cell` from its checkpoint (None: on random weights)."""

    def __init__(
        self,
        models: Models,
        cell: Cell,
        checkpoint: Path | None,
        heard: Callable[[Numbers], None] = lambda numbers: None,
    ) -> None:
        """`heard` is told its numbers when it is loaded."""
        self.cell = cell
        self._models, self._checkpoint, self._heard = models, checkpoint, heard

    @cached_property
    def loaded(self) -> Loaded:
        """Loads it once. Raises VrEvalError where that cannot be."""
        loaded = self._models.of(self.cell, self._checkpoint)
        self._heard(loaded.numbers)
        return loaded


def numbers_of_shards(folder: CellFolder) -> Numbers | None:
    """Of a cell's model, as one of its shards wrote them down: what the id of a cell stands for has the same numbers
    everywhere. None where no shard was begun."""
    for about in _written(folder):
        if about.parameters is not None and about.prefill is not None:
            return Numbers(about.parameters, about.prefill)
    return None


def features_with_shards(folder: CellFolder, own: Mapping[str, int]) -> dict[str, int]:
    """Images encoded and found: `own`, and those that shards of the cell wrote down when they ended."""
    of_shards = [about.features for about in _written(folder) if about.features is not None]
    return {name: count + sum(features.get(name, 0) for features in of_shards) for name, count in own.items()}


def _written(folder: CellFolder) -> Iterator[CellRecord]:
    """What a cell's shards have written down."""
    for shard in folder.shards():
        try:
            yield CellRecord.read(shard.about)
        except InputError:  # killed before it was written, or damaged
            continue
