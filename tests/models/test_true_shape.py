"""LLaVA-NeXT with Qwen2-0.5B at its true shape answers with every method, on one tile and on several."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from scripts.gpu.bed import Bed, cells_of
from vr_eval.adapters.answering import Answerer
from vr_eval.catalog.backbone import Loading
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.training.trainer import fast_bfloat16

NAME = "llava_next_qwen2_0_5b"
TILES = {"one tile": 0, "anyres": 2}
CELLS = {cell.label: cell for cell in cells_of(NAME)}


@pytest.fixture(scope="module", params=TILES)
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """One tower and one decoder; without tiling, every image is a single square."""
    spec = BACKBONES[NAME]
    if not TILES[request.param]:
        BACKBONES[NAME] = dataclasses.replace(spec, tiling=None)
    try:
        yield Bed.of(NAME, torch.device("cpu"), Loading(dtype="bfloat16" if fast_bfloat16(cpu=True) else "float32"))
    finally:
        BACKBONES[NAME] = spec


@pytest.mark.slow
@pytest.mark.parametrize("label", CELLS)
def test_every_method_answers_at_true_shape(label: str, bed: Bed) -> None:
    cell = CELLS[label]
    model = bed.model(cell).to_inference()
    tiled = model.config.tiles is not None
    (tokens,) = model.image_tokens([(336, 336)])
    assert tokens > 2 * cell.tokens if tiled else tokens == cell.tokens
    assert sum(parameter.numel() for parameter in model.parameters()) > 790e6
    (answer,) = Answerer(model, bed.processor).answer([bed.question(0, new_tokens=2)])
    assert answer.failure == ""
    assert answer.new_tokens == 2
