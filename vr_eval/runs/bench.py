"""`vr-eval bench`: what the cells of a grid cost, measured one after the other on this machine.

Times do not depend on what weights hold: a cell without a checkpoint is measured untrained, nothing is trained, and
nothing is fetched. Where the published weights of a backbone are not on this machine, they are drawn for its stated
shapes.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from vr_eval.catalog.backbone import Loading
from vr_eval.catalog.stated import is_stated
from vr_eval.checksums import check_checkpoints
from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.grid import Grid
from vr_eval.config.identity import checkpoint_id
from vr_eval.doctor.needs import weight_needs
from vr_eval.environment import describe, new_run_id
from vr_eval.measure.flops import prefill_flops
from vr_eval.measure.memory import kv_cache_bytes, peak_bytes
from vr_eval.measure.parameters import parameter_counts
from vr_eval.measure.question import PROMPT_TOKENS
from vr_eval.measure.timing import decode_call, prefill_call, times
from vr_eval.models.build import build_lvlm, set_training_free
from vr_eval.models.checkpoints import load_checkpoint
from vr_eval.models.hub import check_loading, quiet_loading
from vr_eval.models.lvlm import LVLM
from vr_eval.runs.device import pick_device
from vr_eval.runs.plan import aligned

BUSY = 0.5
"""So many cores in use by others are said to be (ours)."""
ENVIRONMENT = ("started", "cpu", "gpu", "torch_threads", "versions", "git")


@dataclass(frozen=True)
class CellCost:
    """Costs of one configuration, at a batch of one sample with one image."""

    label: str
    checkpoint_id: str
    trained: bool
    """Measured on its checkpoint, or the backbone's own; otherwise on untrained weights, which take the same time."""
    random_weights: bool
    """Tower and decoder were drawn too, as its backbone's weights are not here or were not asked for."""
    vision_tokens: int
    parameters: int
    method_parameters: int
    """Of its projector and refusion method."""
    prefill_gflops: float
    tower_gflops: float
    prefill_ms: float
    """Median, inference version: pixels to the logits of the first answer token (the TTFT without tokenizing)."""
    training_prefill_ms: float
    """Median of the same through the training version."""
    inference_to_training: float
    """Median of the two's ratio, round by round: at most 1, but for noise."""
    decode_ms_per_token: float
    """Median, inference version."""
    kv_cache_bytes: int
    """Keys and values of all layers after prefill."""
    peak_bytes: int | None
    """Peak GPU memory of a prefill, weights included; None on a CPU."""


@dataclass(frozen=True)
class Bench:
    """Costs of all configurations of a grid, each once whatever its seeds."""

    name: str
    device: str
    random_weights: bool
    """Whether drawn weights were asked for."""
    dtype: str
    attention: str | None
    text_tokens: int
    repeats: int
    cores_in_use: float
    """Cores of this machine that others kept busy when it began."""
    environment: dict[str, Any]
    cells: tuple[CellCost, ...]

    def to_json(self) -> str:
        """For programs; units stand in the names."""
        return json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        """For people: an aligned table and what was measured."""
        peak = any(cell.peak_bytes is not None for cell in self.cells)
        titles: tuple[str, ...] = (
            *("cell", "tokens", "parameters", "of methods", "GFLOPs", "of tower", "prefill ms", "inference/training"),
            *("decode ms/token", "KV cache KiB"),
            *(("peak MiB",) if peak else ()),
        )
        rows = [titles, *(_row(cell, peak) for cell in self.cells)]
        machine = self.environment["gpu" if self.device.startswith("cuda") else "cpu"]
        how = self.dtype + (f", {self.attention}" if self.attention else "")
        where = f"{self.device} ({machine}; {self.environment['torch_threads']} threads; {how})"
        return "\n".join(
            [
                *aligned(rows, right=titles[1:]),
                "",
                f"One image and {self.text_tokens} text tokens, batch 1, on {where};",
                f"medians of {self.repeats} rounds in which all calls of a cell take turns.",
                "prefill: pixels to the logits of the first answer token, inference version;",
                "inference/training: its time over that of the training version.",
                "GFLOPs: matrix products, convolutions and attention of a prefill, two operations per multiply-add.",
                *self._untrained(),
                *([busy_text(self.cores_in_use)] if self.cores_in_use >= BUSY else []),
            ]
        )

    def _untrained(self) -> list[str]:
        if self.random_weights:
            return ["Random weights: all were drawn for the stated shapes, and nothing was fetched."]
        drawn = [cell.label for cell in self.cells if cell.random_weights]
        if drawn:
            which = "All" if len(drawn) == len(self.cells) else ", ".join(drawn)
            here = "weights that are not on this machine were not fetched, but drawn for the stated shapes."
            return [f"{which}: {here}"]
        untrained = [cell.label for cell in self.cells if not cell.trained]
        if len(untrained) == len(self.cells):
            return ["No cell has a checkpoint: all were measured on untrained weights of the same sizes."]
        if not untrained:
            return []
        return [f"Without a checkpoint, measured on untrained weights of the same sizes: {', '.join(untrained)}."]


def bench_grid(grid: Grid, device: str, repeats: int, say: Callable[[str], None]) -> Bench:
    """Measure every configuration of `grid`; its seeds share one measurement.

    Raises:
        InputError: there is no such device or way of loading weights, a checkpoint cannot be loaded, or the backbone
            has no weights and no stated shapes.
    """
    on, loading = pick_device(device), grid.loading
    check_loading(loading)
    quiet_loading()
    cells = {dataclasses.replace(cell, seed=0): cell for cell in reversed(grid.cells)}
    check_checkpoints(folder for cell in cells.values() if (folder := find_checkpoint(cell)) is not None)
    in_use = cores_in_use()
    if in_use >= BUSY:
        say(busy_text(in_use))
    costs = []
    for number, cell in enumerate(reversed(cells.values()), start=1):
        say(f"[{number}/{len(cells)}] {cell.label}")
        costs.append(bench_cell(cell, on, repeats, loading))
    environment = {key: value for key, value in asdict(describe(new_run_id())).items() if key in ENVIRONMENT}
    how = (grid.random_weights, loading.dtype, loading.attention)
    return Bench(grid.name, str(on), *how, PROMPT_TOKENS, repeats, in_use, environment, tuple(costs))


def cores_in_use(seconds: float = 0.5) -> float:
    """Cores of this machine that are busy for so long, while this process waits."""
    return round(psutil.cpu_percent(seconds) / 100 * (psutil.cpu_count() or 1), 1)


def busy_text(cores: float) -> str:
    """What times of a machine that others use are worth."""
    return f"Others keep {cores:.1f} cores of this machine busy: times are longer than they would be alone."


def bench_cell(cell: Cell, device: torch.device, repeats: int, loading: Loading | None = None) -> CellCost:
    """Measure one cell, on its checkpoint where there is one on this machine."""
    loading = loading or Loading()
    here = all(need.cached for need in weight_needs([cell.spec]))
    # Of a cell that is the published checkpoint, ours says no more than where that is.
    folder = None if cell.pretrained and not here else find_checkpoint(cell)
    drawn = cell.random_weights or (folder is None and not here and is_stated(cell.spec))
    if folder is not None:
        model = load_checkpoint(folder, expect=checkpoint_id(cell), loading=loading)[0]
        set_training_free(model, cell)
    elif drawn:
        untrained = dataclasses.replace(cell, random_weights=True)
        model = build_lvlm(untrained, loading=loading, device=device)[0].eval()
    else:
        model = (build_lvlm(cell, loading=loading) if cell.spec.sources else build_lvlm(cell))[0].eval()
    if not loading.placed:
        model.to(device)
    own = not drawn and (folder is not None or cell.pretrained)
    return cost_of(cell, model, device, repeats, trained=own, random_weights=drawn)


def cost_of(
    cell: Cell, model: LVLM, device: torch.device, repeats: int, *, trained: bool, random_weights: bool
) -> CellCost:
    """Measure the training version `model` of a cell, which is on `device` and stays as it is."""
    parameters = parameter_counts(model)
    inference = inference_twin(model)
    flops = prefill_flops(inference)
    calls = {
        "prefill": prefill_call(inference, PROMPT_TOKENS),
        "training": prefill_call(model, PROMPT_TOKENS),
        "decode": decode_call(inference, PROMPT_TOKENS),
    }
    measured = times(calls, device, repeats)
    return CellCost(
        label=cell.label,
        checkpoint_id=checkpoint_id(cell),
        trained=trained,
        random_weights=random_weights,
        vision_tokens=flops.vision_tokens,
        parameters=parameters.total,
        method_parameters=parameters.method,
        prefill_gflops=flops.gflops,
        tower_gflops=flops.tower_gflops,
        prefill_ms=measured["prefill"].median_ms,
        training_prefill_ms=measured["training"].median_ms,
        inference_to_training=measured["prefill"].ratio_to(measured["training"]),
        decode_ms_per_token=measured["decode"].median_ms,
        kv_cache_bytes=kv_cache_bytes(inference),
        peak_bytes=peak_bytes(calls["prefill"], device),
    )


def inference_twin(model: LVLM) -> LVLM:
    """The inference version of `model` beside it; tower and decoder are shared, so that memory holds them once."""
    shared = (model.vision_tower, model.language_model)
    return copy.deepcopy(model, memo={id(part): part for part in shared}).to_inference()


def _row(cell: CellCost, peak: bool) -> tuple[str, ...]:
    row: Sequence[str] = (
        cell.label,
        f"{cell.vision_tokens:,}",
        f"{cell.parameters:,}",
        f"{cell.method_parameters:,}",
        f"{cell.prefill_gflops:,.4g}",
        f"{cell.tower_gflops:,.4g}",
        f"{cell.prefill_ms:.2f}",
        f"{cell.inference_to_training:.2f}",
        f"{cell.decode_ms_per_token:.2f}",
        f"{cell.kv_cache_bytes / 1024:,.1f}",
    )
    return (*row, f"{(cell.peak_bytes or 0) / 1024**2:,.1f}") if peak else tuple(row)
