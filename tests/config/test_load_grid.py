from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.grid_texts import MINIMAL, PRODUCT
from vr_eval.catalog.backbones import MICRO
from vr_eval.catalog.recipe import SecondStage, Stage
from vr_eval.config.grid import Grid, load_grid

Load = Callable[..., Grid]


def labels(grid: Grid) -> list[str]:
    return [cell.label for cell in grid.cells]


def test_axes_are_multiplied_and_rows_added(load: Load) -> None:
    grid = load(PRODUCT)
    assert labels(grid) == [
        "avg_pool 1/4",
        "avg_pool 1/4 + vision_remember",
        "tokenpacker 1/4",
        "tokenpacker 1/4 + vision_remember",
        "mlp",
    ]
    assert [cell.tokens for cell in grid.cells] == [36, 36, 36, 36, 144]
    assert [grid.is_baseline(cell) for cell in grid.cells] == [False] * 4 + [True]
    assert grid.run_dir == Path("runs/product")


def test_what_is_left_out_has_defaults(load: Load) -> None:
    grid = load(MINIMAL)
    assert grid.seeds == (0,)
    assert grid.tasks == tuple((suite, f"vr_micro_{suite}") for suite in ("ocr", "chart", "doc", "general"))
    assert grid.suites == ("ocr", "chart", "doc", "general")
    assert (grid.baseline, grid.limit, grid.batch_size, grid.recipe) == (None, None, 32, MICRO.recipe)
    assert grid.source == "grid.yaml"


def test_a_rate_of_one_method_leaves_those_of_others(load: Load) -> None:
    rates = load(MINIMAL + "recipe: {lr_methods: {tokenpacker: 1e-3, mlp: 1}}").recipe.lr_methods
    assert rates == {**MICRO.recipe.lr_methods, "tokenpacker": 1e-3, "mlp": 1.0}


def test_seeds_of_one_configuration_stand_together_and_are_all_baselines(load: Load) -> None:
    grid = load(PRODUCT, "seeds=[3,1]")
    assert [(cell.label, cell.seed) for cell in grid.cells][:2] == [("avg_pool 1/4", 3), ("avg_pool 1/4", 1)]
    assert [cell.seed for cell in grid.cells if grid.is_baseline(cell)] == [3, 1]


def test_single_values_stand_for_lists_of_one(load: Load) -> None:
    grid = load("{name: a, backbone: micro, seeds: 4, suites: doc, grid: {projector: avg_pool, ratio: 9}}")
    assert labels(grid) == ["avg_pool 1/9"]
    assert grid.seeds == (4,)
    assert grid.tasks == (("doc", "vr_micro_doc"),)


def test_tasks_may_be_named_one_by_one_in_any_order(load: Load) -> None:
    grid = load(MINIMAL + "tasks: [vr_micro_doc, vr_micro_ocr]")
    assert grid.tasks == (("doc", "vr_micro_doc"), ("ocr", "vr_micro_ocr"))


def test_a_task_outside_of_the_suites_is_its_own_suite(load: Load, resources: Path) -> None:
    (resources / "tasks" / "extra.yaml").write_text("task: extra\nmetadata: {version: 1}\n")
    assert load(MINIMAL + "tasks: [extra]").tasks == (("extra", "extra"),)


def test_an_option_axis_applies_to_the_cells_that_use_the_method(load: Load) -> None:
    grid = load(
        """
        name: scopes
        backbone: micro
        grid:
          projector: [avg_pool]
          ratio: [4]
          refusion: [none, vision_remember]
          vision_remember.scope: [local, global]
        """
    )
    assert labels(grid) == [
        "avg_pool 1/4",
        "avg_pool 1/4 + vision_remember",
        "avg_pool 1/4 + vision_remember [scope=global]",
    ]


def test_options_of_the_file_hold_for_all_cells_unless_a_cell_says_otherwise(load: Load) -> None:
    grid = load(
        """
        name: options
        backbone: micro
        options: {vision_remember: {halo: 1, text_guide: none}}
        cells:
          - {projector: avg_pool, ratio: 4, refusion: vision_remember}
          - {projector: avg_pool, ratio: 4, refusion: vision_remember, vision_remember.halo: 2}
        """
    )
    assert [cell.options["vision_remember"] for cell in grid.cells] == [
        {"halo": 1, "text_guide": "none"},
        {"halo": 2, "text_guide": "none"},
    ]


def test_the_default_written_out_is_the_default(load: Load) -> None:
    row = "{projector: avg_pool, ratio: 4, refusion: vision_remember"
    grid = load(f"{{name: a, backbone: micro, cells: [{row}, vision_remember.levels: [2, 3, 4]}}]}}")
    assert grid.cells == load(f"{{name: a, backbone: micro, cells: [{row}}}]}}").cells
    assert labels(grid) == ["avg_pool 1/4 + vision_remember"]


def test_excluded_combinations_are_left_out_even_impossible_ones(load: Load) -> None:
    grid = load(
        """
        name: a
        backbone: micro
        grid: {projector: [mlp, avg_pool], ratio: [1, 4], refusion: [none, vision_remember]}
        exclude:
          - {projector: mlp, ratio: 4}
          - {projector: avg_pool, ratio: 1}
          - {projector: mlp, refusion: vision_remember}
        """
    )
    assert labels(grid) == ["mlp", "avg_pool 1/4", "avg_pool 1/4 + vision_remember"]


def test_the_baseline_may_be_told_apart_by_an_option(load: Load) -> None:
    grid = load(
        """
        name: a
        backbone: micro
        grid:
          projector: avg_pool
          ratio: 4
          refusion: vision_remember
          vision_remember.scope: [local, global]
          vision_remember.levels: [null, [1, 4]]
        baseline: {vision_remember.scope: global, vision_remember.levels: [2, 3, 4]}
        """
    )
    assert [cell.label for cell in grid.cells if grid.is_baseline(cell)] == [
        "avg_pool 1/4 + vision_remember [scope=global]"
    ]


def test_the_command_line_wins_over_the_file(load: Load) -> None:
    grid = load(
        PRODUCT,
        "recipe.stage2.steps=50",
        "recipe.stage2.lr_decoder=1e-4",
        "name=other",
        "grid.ratio=[4, 9]",
        "grid.vision_remember.halo=[0, 1]",
        "options.tokenpacker.heads=4",
        "baseline.refusion=none",
        limit=7,
        batch_size=3,
        backbone="micro",
    )
    assert (grid.recipe.stage2, grid.recipe.stage1) == (SecondStage(steps=50, lr_decoder=1e-4), Stage())
    assert (grid.name, grid.limit, grid.batch_size) == ("other", 7, 3)
    assert len(grid.cells) == 2 * 2 * 3 + 1
    assert [label for label in labels(grid) if label.startswith("tokenpacker 1/9")] == [
        "tokenpacker 1/9 [heads=4]",
        "tokenpacker 1/9 + vision_remember [tokenpacker.heads=4]",
        "tokenpacker 1/9 + vision_remember [tokenpacker.heads=4, halo=1]",
    ]


def test_the_last_set_of_a_key_counts_and_null_takes_the_default(load: Load) -> None:
    assert load(MINIMAL, "limit=5", "limit=6").limit == 6
    assert load(MINIMAL + "limit: 5", "limit=null").limit is None
    assert load(MINIMAL + "limit: 5", "limit=").limit is None


def test_setting_tasks_replaces_the_suites_of_the_file(load: Load) -> None:
    assert load(PRODUCT, "tasks=vr_micro_ocr").tasks == (("ocr", "vr_micro_ocr"),)
    assert load(MINIMAL + "tasks: [vr_micro_ocr]", "suites=doc").tasks == (("doc", "vr_micro_doc"),)


def test_numbers_are_read_as_people_write_them(load: Load) -> None:
    recipe = load(MINIMAL + "recipe: {lr_projector: 1e-3, weight_decay: 1, images: 1_000}").recipe
    assert (recipe.lr_projector, recipe.weight_decay, recipe.images) == (0.001, 1.0, 1000)
    assert isinstance(recipe.weight_decay, float)


@pytest.mark.parametrize("name", ["shipped", "shipped.yaml", "ablations/shipped.yaml", "ablations/shipped"])
def test_an_ablation_of_the_project_is_found_by_name_anywhere(name: str, resources: Path) -> None:
    grid = load_grid(name)
    assert grid.name == "small"
    assert grid.source == str(resources / "ablations" / "shipped.yaml")


def test_a_file_here_comes_before_an_ablation_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "shipped.yaml").write_text(MINIMAL.replace("small", "mine"))
    assert load_grid("shipped.yaml").name == "mine"


def test_a_folder_does_not_hide_an_ablation(tmp_path: Path) -> None:
    (tmp_path / "shipped").mkdir()
    assert load_grid("shipped").name == "small"


def test_a_byte_order_mark_and_windows_line_ends_are_taken(tmp_path: Path) -> None:
    (tmp_path / "windows.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_grid(tmp_path / "windows.yaml").name == "small"
