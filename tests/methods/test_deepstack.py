"""DeepStack: which cell goes to which stack, before which layer, and through whose MLP."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vr_eval.catalog.backbones import MICRO
from vr_eval.layers.windows import window_index
from vr_eval.methods.base import Shapes, VisionFeatures
from vr_eval.methods.deepstack.module import (
    DeepStack,
    best_crop_grid,
    crop_stacks,
    grid_stacks,
    sample_stacks,
    stack_layers,
    stitch,
)
from vr_eval.methods.deepstack.spec import DeepStackOptions
from vr_eval.methods.levels import StackedLevel, crop_levels
from vr_eval.models.lvlm import LVLM
from vr_eval.testing.tiny import pixels, prompt, tiny_lvlm


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (1, 3), (3, 1), (2, 1)])
def test_a_stacks_token_is_the_cell_that_the_formula_says(rows: int, columns: int) -> None:
    side = 4
    high = torch.randn(rows * side, columns * side, 5)
    stacks = sample_stacks(high, rows, columns)
    assert stacks.shape == (rows * columns, side * side, 5)
    for i in range(rows):
        for j in range(columns):
            for y in range(side):
                for x in range(side):
                    cell = high[y * rows + i, x * columns + j]
                    assert torch.equal(stacks[i * columns + j, y * side + x], cell)


def test_a_map_that_stacks_do_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 x 3 stacks do not divide a map of 4 x 4"):
        sample_stacks(torch.zeros(4, 4, 1), 2, 3)


def test_crops_are_stitched_row_by_row() -> None:
    crops = torch.arange(6.0).view(6, 1, 1).expand(6, 4, 1)  # 2 x 3 crops of 2 x 2 cells, filled with their number
    expected = [[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5], [3, 3, 4, 4, 5, 5]]
    assert stitch(crops, 2, 3)[..., 0].tolist() == expected


def test_fewer_crops_are_filled_up_with_stacks_that_add_nothing() -> None:
    crops = torch.randn(2, 9, 4)
    stacks = crop_stacks(crops, 1, 2, 4)
    assert stacks.shape == (4, 9, 4)
    assert torch.equal(stacks[:2], sample_stacks(stitch(crops, 1, 2), 1, 2))
    assert not stacks[2:].any()
    with pytest.raises(ValueError, match="2 crops are more than 1"):
        crop_stacks(crops, 1, 2, 1)


def test_equal_token_stacks_hold_the_cells_under_each_token() -> None:
    cells = torch.randn(2, 144, 3)
    stacks = grid_stacks(cells, 3)
    assert stacks.shape == (9, 2, 16, 3)
    under = window_index(12, 3)
    for token in range(16):
        assert torch.equal(stacks[:, 1, token], cells[1, under[token]])


@pytest.mark.parametrize(
    ("size", "crops", "grid"),
    [
        ((672, 336), 4, (2, 1)),
        ((336, 672), 4, (1, 2)),
        ((1000, 1000), 4, (2, 2)),
        ((2000, 500), 4, (4, 1)),
        ((500, 2000), 4, (1, 4)),
        ((1000, 400), 4, (3, 1)),
        ((100, 100), 4, (1, 2)),  # smaller than any grid: the least waste, then the narrowest
        ((1000, 1000), 2, (1, 2)),
        ((1000, 1000), 9, (3, 3)),
    ],
)
def test_the_grid_of_crops_suits_the_image(size: tuple[int, int], crops: int, grid: tuple[int, int]) -> None:
    assert best_crop_grid(*size, crops, 336) == grid


@pytest.mark.parametrize("side", [2, 3])
def test_the_official_rule_cuts_a_large_square_image_as_every_image_is_cut_here(side: int) -> None:
    assert best_crop_grid(1008, 1008, side**2, 336) == (side, side)


def test_one_crop_is_no_grid() -> None:
    with pytest.raises(ValueError, match="needs at least 2"):
        best_crop_grid(10, 10, 1, 336)


def test_stacks_are_added_before_their_layers() -> None:
    assert stack_layers(4, 1, 1) == (0, 1, 2, 3)
    assert stack_layers(3, 0, 2) == (-1, 1, 3)


def entering(model: LVLM, ids: torch.Tensor, images: torch.Tensor) -> list[torch.Tensor]:
    """What every decoder layer is handed ``(S, H)``, then what it hands on, hooks of the method included."""
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.forward = _watched(layer.forward, seen)
        model(ids, None, images)
        for layer in model.decoder.layers:
            del layer.forward
    return seen


def _watched(forward: Any, seen: list[torch.Tensor]) -> Any:
    def watched(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(hidden[0].clone())
        out = forward(hidden, *args, **kwargs)
        seen.append((out if isinstance(out, torch.Tensor) else out[0])[0].clone())
        return out

    return watched


@pytest.mark.parametrize(
    ("ratio", "options", "before"),
    [
        (4, {}, (0, 1, 2, 3)),
        (1, {"start": 2}, (2,)),
        (1, {"start": 3}, (3,)),
        (1, {}, (0,)),
        (1, {"stacks": "crops"}, (0, 1, 2, 3)),
    ],
)
@torch.no_grad()
def test_each_stack_is_what_a_layer_finds_on_top_of_the_layer_before(
    ratio: int, options: dict[str, Any], before: tuple[int, ...]
) -> None:
    model = tiny_lvlm("mlp" if ratio == 1 else "avg_pool", ratio, "deepstack", **options)
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    seen = entering(model, ids, pixels(1))
    features = VisionFeatures(model.encode_images(pixels(1)), model.feature_levels)
    stacks = model.refusion.prepare(features)
    vision = ids[0] == model.config.image_token_id
    embedded = model.get_input_embeddings()(ids)[0]
    embedded[vision] = model.projector(features)[0]
    left = [embedded, *seen[1::2]]
    for layer in range(4):
        added = seen[2 * layer] - left[layer]
        assert not added[~vision].any()
        if layer in before:
            torch.testing.assert_close(added[vision], stacks[before.index(layer), 0], atol=1e-5, rtol=1e-4)
        else:
            assert not added.any()


def test_shared_stacks_go_through_the_projectors_mlp() -> None:
    shared = tiny_lvlm("avg_pool", 4, "deepstack", shared=True)
    assert not list(shared.refusion.parameters())
    own = tiny_lvlm("avg_pool", 4, "deepstack")
    own.projector.load_state_dict(shared.projector.state_dict())
    own.refusion.mlp.load_state_dict(shared.projector.mlp.state_dict())
    ids = torch.tensor([prompt(shared, 5, "image", 6, 7)])
    with torch.no_grad():
        assert torch.equal(own(ids, None, pixels(1)).logits, shared(ids, None, pixels(1)).logits)
    shared(ids, None, pixels(1), labels=ids).loss.backward()
    assert shared.projector.mlp[0].weight.grad is not None


def test_a_projector_without_an_mlp_on_single_patches_has_nothing_to_share() -> None:
    with pytest.raises(ValueError, match="TokenPacker has no MLP on single patches"):
        tiny_lvlm("tokenpacker", 4, "deepstack", shared=True)


def test_more_stacks_than_layers_are_a_fault_of_the_ratio() -> None:
    assert DeepStackOptions().resolve(MICRO).start == 0
    assert DeepStackOptions().ratio_faults(MICRO, 4) == ()
    (fault,) = DeepStackOptions().ratio_faults(MICRO, 9)
    assert (fault.option, fault.allowed) == ("interval", "a ratio of at most 1/4 with this interval")
    (fault,) = DeepStackOptions(start=1).ratio_faults(MICRO, 4)
    assert (fault.option, fault.allowed) == ("start", "0 to 0")


def shapes(**changes: int) -> Shapes:
    sizes = {"grid": 4, "tower_width": 8, "tower_depth": 4, "select_layer": 4, "decoder_width": 6, "stride": 1}
    return Shapes(**{**sizes, "decoder_depth": 40, **changes})


@pytest.mark.parametrize(("side", "stride"), [(2, 1), (3, 1), (2, 2)])
@torch.no_grad()
def test_stacks_of_crops_are_the_cells_over_each_token_of_the_enlarged_image(side: int, stride: int) -> None:
    torch.manual_seed(0)
    method = DeepStack(shapes(stride=stride), DeepStackOptions(stacks="crops", crops=side**2))
    assert method.levels == crop_levels(4, side)
    maps = torch.randn(2, 16, side**2, 8)  # two images; a plane for every crop, row-major
    stacks = method.prepare(VisionFeatures(maps, method.levels))
    per_token, tokens = side * stride, 4 // stride
    assert stacks.shape == (per_token**2, 2, tokens**2, 6)
    for i in range(per_token):
        for j in range(per_token):
            for y in range(tokens):
                for x in range(tokens):
                    row, column = y * per_token + i, x * per_token + j  # of the enlarged image's cells
                    crop = row // 4 * side + column // 4
                    expected = method.mlp(maps[:, row % 4 * 4 + column % 4, crop])
                    torch.testing.assert_close(stacks[i * per_token + j, :, y * tokens + x], expected)


def test_there_is_a_layer_for_every_stack_of_crops() -> None:
    method = DeepStack(shapes(stride=2), DeepStackOptions(stacks="crops", interval=2))
    assert method.layers == tuple(range(0, 32, 2))


@pytest.mark.parametrize("options", [{}, {"stacks": "crops"}])
@torch.no_grad()
def test_stacks_of_zeros_change_nothing(options: dict[str, Any]) -> None:
    model, bare = tiny_lvlm("mlp", 1, "deepstack", **options), tiny_lvlm("mlp", 1)
    bare.load_state_dict(model.state_dict(), strict=False)
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    assert not torch.equal(model(ids, None, pixels(1)).logits, bare(ids, None, pixels(1)).logits)
    for parameter in model.refusion.parameters():
        parameter.zero_()
    assert torch.equal(model(ids, None, pixels(1)).logits, bare(ids, None, pixels(1)).logits)


def test_in_the_tower_it_has_no_parameters_and_changes_only_what_lies_behind_the_first_stack() -> None:
    method = DeepStack(shapes(tower_depth=12, select_layer=11), DeepStackOptions(stacks="crops", place="tower"))
    assert not list(method.parameters())
    assert (method.levels, method.layers) == ((), ())
    assert [method.tower_level(level) for level in (0, 6)] == [0, 6]
    assert [method.tower_level(level) for level in (7, 11)] == [StackedLevel(level, 2, 6, 1) for level in (7, 11)]
    # 9 stacks do not fit behind the middle of 12 layers: they begin as late as they can.
    nine = DeepStackOptions(stacks="crops", crops=9, place="tower")
    early = DeepStack(shapes(tower_depth=12, select_layer=11), nine)
    assert early.tower_level(3) == StackedLevel(3, 3, 2, 1)


@torch.no_grad()
def test_in_the_tower_the_projector_reads_other_features_and_the_decoder_is_left_alone() -> None:
    model, bare = tiny_lvlm("mlp", 1, "deepstack", stacks="crops", place="tower"), tiny_lvlm("mlp", 1)
    bare.load_state_dict(model.state_dict(), strict=True)
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    features = model.encode_images(pixels(1))
    assert not torch.equal(features, bare.encode_images(pixels(1)))
    assert torch.equal(model(ids, None, pixels(1)).logits, bare(ids, vision_features=features).logits)


@pytest.mark.parametrize(
    ("options", "option", "message", "allowed"),
    [
        ({"stacks": "crops", "crops": 5}, "crops", "5 crops do not cut a square image into squares", "4, 9, 16"),
        ({"crops": 9}, "crops", "no effect with stacks: grid", "4"),
        ({"place": "tower"}, "stacks", "the tower sees the full patch grid already", "crops"),
        ({"place": "tower", "stacks": "crops", "shared": True}, "shared", "nothing to project", "false"),
        (
            {"place": "tower", "stacks": "crops", "start": 1},
            "start",
            "before layer 4 of the tower",
            "0 to 0",
        ),
        ({"place": "tower", "stacks": "crops", "crops": 9}, "crops", "the last of 9 stacks", "no more than 4"),
    ],
)
def test_options_that_do_not_fit_are_faults(options: dict[str, Any], option: str, message: str, allowed: str) -> None:
    (fault,) = DeepStackOptions(**options).faults(MICRO)
    assert fault.option == option
    assert message in fault.message
    assert fault.allowed.startswith(allowed)


def test_stacks_of_crops_count_the_ratio_too_in_the_decoder_and_not_in_the_tower() -> None:
    crops = DeepStackOptions(stacks="crops")
    assert crops.ratio_faults(MICRO, 1) == ()
    (fault,) = crops.ratio_faults(MICRO, 4)
    assert (fault.option, fault.allowed) == ("interval", "a ratio of at most 1/1 with this interval and 4 crops")
    assert "at 1/4 the last of 16 stacks would be added before layer 15" in fault.message
    (fault,) = DeepStackOptions(stacks="crops", crops=9).ratio_faults(MICRO, 1)
    assert (fault.option, fault.allowed) == ("crops", "no more than 4 with this interval")
    assert DeepStackOptions(stacks="crops", place="tower").ratio_faults(MICRO, 144) == ()
