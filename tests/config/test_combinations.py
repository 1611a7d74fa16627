"""Methods that make no sense together, or do not fit the backbone, are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vr_eval.config.catalog import list_methods
from vr_eval.config.grid import Grid
from vr_eval.methods.registry import METHODS, projectors

HEAD = "name: a\nbackbone: micro\n"


def row(text: str) -> str:
    return f"{HEAD}cells: [{{{text}}}]"


@pytest.mark.parametrize("refusion", ["none", "vision_remember", "deepstack", "sva"])
def test_every_refusion_goes_with_every_projector_that_keeps_the_grid(load: Callable[..., Grid], refusion: str) -> None:
    names = [name for name in projectors() if METHODS[name].keeps_grid and name != "mlp"]
    rows = [f"{{projector: {name}, ratio: 4, refusion: {refusion}}}" for name in names]
    grid = load(f"{HEAD}cells: [{', '.join(rows)}]")
    assert len(grid.cells) == len(names) >= 6
    assert {cell.tokens for cell in grid.cells} == {36}


@pytest.mark.parametrize("refusion", ["vision_remember", "deepstack", "sva"])
def test_a_resampler_keeps_no_grid_for_a_refusion(refused: Callable[..., str], refusion: str) -> None:
    message = refused(row(f"projector: resampler, ratio: 4, refusion: {refusion}"))
    assert f"{refusion} needs tokens that stand over the patch grid, which resampler does not keep" in message


def test_a_resampler_goes_with_a_refusion_that_looks_everywhere(load: Callable[..., Grid]) -> None:
    (cell,) = load(
        row("projector: resampler, ratio: 9, refusion: vision_remember, vision_remember.scope: global")
    ).cells
    assert cell.tokens == 16


def test_more_stacks_than_decoder_layers_are_refused(refused: Callable[..., str]) -> None:
    message = refused(row("projector: avg_pool, ratio: 9, refusion: deepstack"))
    assert "at 1/9 the last of 9 stacks would be added before layer 8 of a decoder that has 4 layers, 0 to 3" in message
    assert "allowed: a ratio of at most 1/4" in message
    message = refused(row("projector: avg_pool, ratio: 4, refusion: deepstack, deepstack.start: 1"))
    assert "cells[0].deepstack.start" in message
    assert "allowed: 0 to 0" in message


def test_the_forms_of_deepstack(load: Callable[..., Grid], refused: Callable[..., str]) -> None:
    crops = "refusion: deepstack, deepstack.stacks: crops"
    (cell,) = load(row(f"projector: mlp, {crops}")).cells
    assert (cell.label, cell.tokens) == ("mlp + deepstack [stacks=crops]", 144)
    # In the tower the projector's ratio and its grid do not matter.
    load(row(f"projector: resampler, ratio: 9, {crops}, deepstack.place: tower"))
    message = refused(row(f"projector: avg_pool, ratio: 4, {crops}"))
    assert "at 1/4 the last of 16 stacks would be added before layer 15 of a decoder that has 4 layers" in message
    message = refused(row("projector: mlp, refusion: deepstack, deepstack.place: tower"))
    assert "cells[0]" in message
    assert "only crops have more to add there (allowed: crops)" in message
    message = refused(row("projector: mlp, refusion: deepstack, deepstack.stacks: tiles"))
    assert "allowed: grid, crops" in message


def test_pruning_waits_for_the_last_stack_of_crops(load: Callable[..., Grid], refused: Callable[..., str]) -> None:
    text = "projector: mlp, refusion: deepstack, deepstack.stacks: crops, pruning: fastv"
    message = refused(row(f"{text}, fastv.layer: 2"))
    assert "deepstack acts until after layer 2" in message
    load(row(f"{text}, fastv.layer: 3"))
    load(row(f"{text}, fastv.layer: 1, deepstack.place: tower"))


def test_sharing_an_mlp_needs_one(refused: Callable[..., str], load: Callable[..., Grid]) -> None:
    text = "ratio: 4, refusion: deepstack, deepstack.shared: true"
    for name in ("avg_pool", "ldpv2"):
        load(row(f"projector: {name}, {text}"))
    message = refused(row(f"projector: tokenpacker, {text}"))
    assert "deepstack would share an MLP on single patches, which tokenpacker does not have" in message
    assert "allowed: deepstack.shared: false" in message


def test_a_layer_after_which_nothing_reads_is_refused(refused: Callable[..., str]) -> None:
    message = refused(row("projector: avg_pool, ratio: 4, refusion: sva, sva.start: 3"))
    assert "one would stand after layer 3, and only layers up to 2 have another one to read it" in message


@pytest.mark.parametrize("name", ["ldpv2", "resampler", "c_abstractor", "sva_connector", "deepstack", "sva"])
def test_the_list_shows_the_method(name: str) -> None:
    text = list_methods("micro")
    assert f"\n{name}  ({METHODS[name].seam}, trained, version 1)" in text
    assert METHODS[name].link in text
