"""Methods that make no sense together, or do not fit the backbone, are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vr_eval.config.grid import Grid
from vr_eval.listing import list_methods
from vr_eval.methods.downsample.spec import downsample_factors
from vr_eval.methods.registry import METHODS, image_methods, projector_options, projectors, prunings, refusions
from vr_eval.runs.plan import plan_grid

HEAD = "name: a\nbackbone: micro\n"


def row(text: str) -> str:
    return f"{HEAD}cells: [{{{text}}}]"


WHOLE = "a whole number from 2 to 1000000"


@pytest.mark.parametrize("refusion", ["none", "vision_remember", "deepstack", "sva"])
def test_every_refusion_goes_with_every_projector_that_keeps_the_grid(load: Callable[..., Grid], refusion: str) -> None:
    names = [name for name in projectors() if projector_options(name).keeps_grid and name != "mlp"]
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


def test_a_reduction_may_act_before_between_and_behind_the_stacks_of_crops(load: Callable[..., Grid]) -> None:
    text = "projector: mlp, refusion: deepstack, deepstack.stacks: crops, pruning: fastv"
    for layer in (1, 2, 3):
        load(row(f"{text}, fastv.layer: {layer}"))
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


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("projector: mlp, image: downsample", 36),
        ("projector: mlp, image: downsample, downsample.factor: 3", 16),
        ("projector: mlp, image: downsample, downsample.factor: 6", 4),
        ("projector: avg_pool, ratio: 9, image: downsample", 4),
        ("projector: pixel_shuffle, ratio: 4, image: downsample, downsample.factor: 3", 4),
    ],
)
def test_downsampling_leaves_fewer_tokens_of_the_same_checkpoint(
    load: Callable[..., Grid], text: str, tokens: int
) -> None:
    bare = text.partition(", image")[0]
    grid = load(f"{HEAD}cells: [{{{text}}}, {{{bare}}}]")
    smaller, whole = plan_grid(grid).cells
    assert smaller.tokens == tokens
    assert whole.tokens == tokens * grid.cells[0].resolved("downsample").factor ** 2  # type: ignore[attr-defined]
    assert smaller.checkpoint_id == whole.checkpoint_id
    assert smaller.cell_id != whole.cell_id
    assert whole.train_seconds == 0  # the first of the two has it trained


@pytest.mark.parametrize(
    ("text", "message", "allowed"),
    [
        (
            "projector: mlp, image: downsample, downsample.factor: 5",
            "downsample.factor: downsample: a factor of 5 does not divide the 12x12 patch grid into 2x2 or more",
            "2, 3, 4, 6",
        ),
        ("projector: mlp, image: downsample, downsample.factor: 12", "a factor of 12 does not divide", "2, 3, 4, 6"),
        (
            "projector: mlp, image: downsample, downsample.factor: 1",
            "does not fit",
            WHOLE,
        ),
        (
            "projector: mlp, image: downsample, downsample.factor: 2.5",
            "does not fit",
            WHOLE,
        ),
        (
            "projector: avg_pool, ratio: 4, refusion: vision_remember, image: downsample",
            "downsample leaves a 6x6 patch grid, but vision_remember looks again at the full 12x12 grid",
            "refusion: none",
        ),
        (
            "projector: tokenpacker, ratio: 4, image: downsample",
            "downsample leaves a 6x6 patch grid, but tokenpacker is made for the full 12x12 grid",
            "projector: mlp, avg_pool, pixel_shuffle",
        ),
        (
            "projector: avg_pool, ratio: 16, image: downsample",
            "cells[0].image: downsample leaves a 6x6 patch grid, but a ratio of 1/16 does not divide that",
            "ratio: 1, 4, 9, 36",
        ),
    ],
)
def test_downsampling_that_cannot_be_is_refused_with_the_reason(
    refused: Callable[..., str], text: str, message: str, allowed: str
) -> None:
    said = refused(row(text))
    assert message in said
    assert f"allowed: {allowed})" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in projectors() if not projector_options(name).any_grid])
def test_a_projector_made_for_one_grid_is_not_downsampled(refused: Callable[..., str], name: str) -> None:
    assert f"but {name} is made for the full 12x12 grid" in refused(
        row(f"projector: {name}, ratio: 4, image: downsample")
    )


def test_a_product_says_what_to_leave_out_of_it(refused: Callable[..., str], load: Callable[..., Grid]) -> None:
    text = f"{HEAD}grid: {{projector: [avg_pool, tokenpacker], ratio: 4, image: [none, downsample]}}\n"
    exclude = "exclude: [{projector: tokenpacker, refusion: none, pruning: none, image: downsample}]"
    assert f"Leave it out with {exclude}" in refused(text)
    assert [cell.tokens for cell in load(text + exclude).cells] == [36, 9, 36]


def test_a_grid_that_nothing_divides_has_no_factor() -> None:
    assert downsample_factors(12) == (2, 3, 4, 6)
    assert downsample_factors(27) == (3, 9)
    assert downsample_factors(13) == downsample_factors(3) == ()


def test_the_list_shows_the_training_free_methods() -> None:
    text = list_methods("micro")
    for name in (*prunings(), *image_methods()):
        assert f"\n{name}  ({METHODS[name].seam}, training-free, version 1)" in text
    assert "those that the projector makes of 6x6 patches" in text
    assert text.count("those of the projector") == len(refusions()) + len(prunings())
