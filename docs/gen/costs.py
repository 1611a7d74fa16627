"""Costs of methods on a 7B backbone: the model's own code runs on shapes, without weights and without arithmetic.

Notable:
- parameters are made on the meta device and then stand as zeros that share one number, so 7B of them take no memory;
- operations are counted by the same counter as in a run (vr_eval/measure/flops.py); what it counts is then not
  computed: every step between tensors of numbers gives zeros of the right shape. Steps that read or give whole numbers
  or bools run for real, since where tokens stand decides shapes.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from transformers import CONFIG_MAPPING, PreTrainedConfig

from vr_eval.catalog.stated import STATED
from vr_eval.config.cell import Cell
from vr_eval.config.grid import load_grid
from vr_eval.measure.flops import GIGA, count_flops
from vr_eval.measure.parameters import parameter_counts
from vr_eval.measure.question import PROMPT_TOKENS, example
from vr_eval.models.build import lvlm_config
from vr_eval.models.lvlm import LVLM

BACKBONE = "llava_1_5_7b"
"""CLIP-L/14-336 (24 x 24 patches) and Vicuna-7B, one square image: the shapes that most publications state."""


@dataclass(frozen=True)
class Cost:
    """What one configuration costs on `BACKBONE`."""

    label: str
    """Of the configuration, as plans and reports have it."""
    parameters: int
    """Of projector and refusion together."""
    vision_tokens: int
    """Of one image, as they enter the decoder."""
    gflops: float
    """Of one prefill of the question that all costs are measured on (vr_eval/measure/question.py)."""


@cache
def cost(**row: Any) -> Cost:
    """The cost of the cell that `row` describes, with the keys of `cells` in a grid file.

    Raises:
        InputError: There is no such cell on `BACKBONE`.
    """
    cell = cell_of(BACKBONE, row)
    model = hollow_model(cell)
    given = example(model)
    with warnings.catch_warnings(), ShapesOnly():
        warnings.filterwarnings("ignore", message="Use of index_put_ on expanded tensors")  # only ever zeros
        operations = count_flops(model, lambda: model(**given))
    vision_tokens = given["input_ids"].shape[1] - PROMPT_TOKENS
    return Cost(cell.label, parameter_counts(model).method, vision_tokens, operations / GIGA)


def cell_of(backbone: str, row: dict[str, Any]) -> Cell:
    """The one cell of a grid with this row. Raises InputError where there is none."""
    grid = {"name": "costs", "backbone": backbone, "cells": [row], "random_weights": True}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "costs.yaml"
        path.write_text(yaml.safe_dump(grid))
        return load_grid(str(path)).cells[0]


def hollow_model(cell: Cell) -> LVLM:
    """The model of `cell` with every parameter zero, in the memory of one number each."""
    tower, decoder = (_Part(config) for config in _configs(cell))
    with torch.device("meta"):
        model = LVLM(lvlm_config(cell, tower, decoder, decoder.config.vocab_size)).eval()  # type: ignore[arg-type]
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_zeros(parameter), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
    return model


@dataclass(frozen=True)
class _Part:
    """A tower or decoder as far as a model's configuration reads it."""

    config: PreTrainedConfig


def _configs(cell: Cell) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    assert cell.spec.checkpoint is not None
    stated = STATED[cell.spec.checkpoint.name].config
    config = CONFIG_MAPPING[stated["model_type"]].from_dict(dict(stated))
    return config.vision_config, config.text_config


class ShapesOnly(TorchDispatchMode):
    """Within it, what is computed from numbers alone gives zeros of the right shapes."""

    def __init__(self) -> None:
        super().__init__()
        # Layers repeat: what a step gives is asked once for the same shapes.
        self.known: dict[object, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        signature = (func, _signature(args), _signature(tuple(kwargs.items())))
        if signature not in self.known:
            self.known[signature] = self._given(func, args, kwargs)
        shapes = self.known[signature]
        if shapes is None:
            return func(*args, **kwargs)
        return args[0] if func._schema.is_mutable else tree_map(_zeros, shapes)  # in place zeros stay zeros

    @staticmethod
    def _given(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What `func` gives, on the meta device; None where it has to run for real."""
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        if not tensors or not all(tensor.is_floating_point() for tensor in tensors):
            return None
        if func._schema.is_mutable:
            return args[0]
        try:
            shapes = func(*tree_map(_shape, args), **tree_map(_shape, kwargs))
        except (NotImplementedError, RuntimeError):  # its outcome depends on values
            return None
        made = [leaf for leaf in tree_flatten(shapes)[0] if isinstance(leaf, Tensor)]
        return shapes if all(tensor.is_floating_point() for tensor in made) else None


def _signature(given: Any) -> object:
    """Types, shapes and plain values, hashable."""
    if isinstance(given, Tensor):
        return given.dtype, given.shape
    return tuple(map(_signature, given)) if isinstance(given, list | tuple) else (type(given), given)


def _shape(leaf: Any) -> Any:
    return torch.empty_like(leaf, device="meta") if isinstance(leaf, Tensor) else leaf


def _zeros(leaf: Any) -> Any:
    return torch.zeros((), dtype=leaf.dtype).expand(leaf.shape) if isinstance(leaf, Tensor) else leaf
