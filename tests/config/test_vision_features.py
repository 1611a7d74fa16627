"""What a run keeps of its images: sizes, place and ranges, all known without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.grid_texts import PRODUCT
from vr_eval.catalog.recipe import Recipe
from vr_eval.config.cell import Cell
from vr_eval.config.grid import Grid
from vr_eval.config.vision_features import (
    Expected,
    expected,
    features_folder,
    image_bytes,
    levels_read,
    ranges_that_fit,
)
from vr_eval.errors import InputError
from vr_eval.methods.levels import in_order
from vr_eval.methods.registry import METHODS
from vr_eval.models.features import levels_of
from vr_eval.runs.plan import plan_grid

LEVEL = 144 * 96 * 4
"""Bytes of one hidden state of the embedded tower."""


def cell(
    projector: str = "mlp", ratio: int = 1, refusion: str = "none", image: str = "none", **options: object
) -> Cell:
    given = {refusion if refusion != "none" else projector: options} if options else {}
    return Cell("micro", projector, ratio, refusion, "none", 0, given, Recipe(), image=image)


PROJECTORS = [name for name, spec in METHODS.items() if spec.options.seam == "projector"]
REFUSIONS = [name for name, spec in METHODS.items() if spec.options.seam == "refusion"]
CELLS = [
    *(cell(name, 1 if name == "mlp" else 4) for name in PROJECTORS),
    *(cell("avg_pool", 4, name) for name in REFUSIONS),
    cell("tokenpacker", 4, levels=(1, 2)),
    cell("sva_connector", 4, levels=(1, 3)),
    cell("tokenpacker", 4, "sva", levels=(0, 2)),
    *(cell("avg_pool", 4, "vision_remember", fusion=fusion) for fusion in ("concat", "per_level", "last")),
    cell("mlp", 1, "deepstack", stacks="crops"),
    cell("tokenpacker", 4, "deepstack", stacks="crops", place="tower"),
]


@pytest.mark.parametrize("one", CELLS, ids=lambda one: one.label)
def test_options_say_the_levels_that_the_methods_read(one: Cell) -> None:
    assert in_order(levels_read(one)) == in_order(levels_of(one))


def test_cells_that_see_the_same_image_share_what_is_kept_of_it() -> None:
    assert image_bytes([cell()], "float32") == LEVEL
    assert image_bytes([cell(), cell("avg_pool", 4)], "bfloat16") == LEVEL // 2
    assert image_bytes([cell(), cell("tokenpacker", 4)], "float32") == len(levels_of(cell("tokenpacker", 4))) * LEVEL
    small = cell("avg_pool", 4, image="downsample")
    assert small.grid == 6
    assert image_bytes([cell(), small], "float32") == LEVEL + LEVEL // 4
    assert image_bytes([], "float32") == 0


def test_a_plan_says_what_a_run_would_need(load: Callable[..., Grid]) -> None:
    plan = plan_grid(load(PRODUCT, limit=50))
    bytes_ = image_bytes(plan.grid.cells, "float32")
    assert (plan.features.image_bytes, plan.features.total_bytes) == (bytes_, 200 * bytes_)
    line = f"vision features: at most {bytes_ / 1e3:.0f} kB an image, {200 * bytes_ / 1e6:.1f} MB for 200 questions"
    assert line in plan.to_text()
    assert f'"feature_bytes": {200 * bytes_}' in plan.to_json()
    unknown = expected(plan.grid, plan.grid.cells, None)
    assert unknown.total_bytes is None
    assert str(unknown) == f"vision features: at most {bytes_ / 1e3:.0f} kB an image"


def test_a_run_says_where_they_are_kept() -> None:
    needed = Expected(11_800_000, 1_509)
    text = "vision features: at most 11.8 MB an image, 17.8 GB for 1,509 questions with an image each"
    assert needed.kept_in(None, 0) == f"{text}; none are kept on disk"
    assert needed.kept_in(Path("/data"), 20 * 1024**3) == f"{text}; kept up to 21.5 GB in /data"


@pytest.mark.parametrize(
    ("total", "blocks", "ranges"),
    [(None, 9, 1), (0, 9, 1), (100, 9, 1), (101, 9, 3), (150, 9, 3), (151, 9, 4), (10_000, 9, 9), (101, 0, 1)],
)
def test_what_fits_is_one_range_and_else_two_ranges_fit(total: int | None, blocks: int, ranges: int) -> None:
    assert ranges_that_fit(total, 100, blocks) == ranges


def test_the_folder_is_ours_a_users_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VR_EVAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert features_folder(None) == tmp_path / "home" / "vision"
    assert features_folder("off") is None
    assert features_folder("~/mine") == tmp_path / "mine"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="this is a file, not a folder"):
        features_folder(tmp_path / "file")
    monkeypatch.setenv("VR_EVAL_HOME", str(tmp_path / "file"))
    assert features_folder(None) is None  # an evaluation has never needed it
    assert not (tmp_path / "home").exists()
