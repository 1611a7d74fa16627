from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.grid_texts import PRODUCT, write_task
from vr_eval.catalog.backbones import BACKBONES, MICRO, weights_hash
from vr_eval.catalog.frozen import FrozenDict
from vr_eval.catalog.recipe import STAGES, Recipe, SecondStage, Stage
from vr_eval.catalog.tasks import _scan, task_fields, task_version
from vr_eval.config import identity
from vr_eval.config.cell import Cell
from vr_eval.config.grid import Grid
from vr_eval.config.identity import cell_id, checkpoint_id, digest
from vr_eval.errors import InputError
from vr_eval.methods.registry import METHODS

RECIPE = Recipe(
    images=10,
    questions=4,
    batch_size=3,
    lr_projector=1e-3,
    warmup=0.03,
    weight_decay=0.0,
    stage1=Stage(steps=1),
    stage2=SecondStage(steps=2, lr_decoder=5e-4),
)


def numbers(owner: type) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(owner)
        if field.name in ("batch_size", "lr_projector") or type(field.default) in (int, float, bool)
    ]


CHANGED = [dataclasses.replace(RECIPE, **{name: 7}) for name in numbers(Recipe) if name != "broken"]
CHANGED += [
    dataclasses.replace(RECIPE, **{stage: dataclasses.replace(getattr(RECIPE, stage), **{name: 7})})
    for stage, kind in STAGES.items()
    for name in numbers(kind)
]
GOLDEN_RESULT = "13a1fc65fbaac603"
GOLDEN_DATA = "1fc9d82ccde65c95"
GOLDEN = "2d3c5eedf1eeb41a"
GOLDEN_STAGES = "961883e4a05eb489"
"""From before stages were mappings."""
GOLDEN_DEEPSTACK = "f739c84774438bab"
"""From before DeepStack had any form but one."""


@pytest.fixture(autouse=True)
def frozen_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone that does not change with the project's data, weights or default recipe."""
    spec = dataclasses.replace(MICRO, name="frozen", weights=None, data_version="micro-1", recipe=RECIPE)
    monkeypatch.setitem(BACKBONES, "frozen", spec)


def make(**changes: object) -> Cell:
    fields: dict[str, object] = {
        "backbone": "frozen",
        "projector": "tokenpacker",
        "ratio": 4,
        "refusion": "vision_remember",
        "pruning": "none",
        "seed": 0,
        "options": {},
        "recipe": RECIPE,
    }
    return Cell(**{**fields, **changes})  # type: ignore[arg-type]


def staged(**changes: dict[str, object]) -> Recipe:
    """``RECIPE`` with some keys of its stages changed."""
    stages = {stage: dataclasses.replace(getattr(RECIPE, stage), **given) for stage, given in changes.items()}
    return dataclasses.replace(RECIPE, **stages)


def test_the_format_of_an_identity_is_pinned() -> None:
    """If this fails, every checkpoint and result is orphaned: change it only on purpose."""
    assert checkpoint_id(make()) == GOLDEN


def test_the_keys_of_stages_enter_an_identity_under_the_names_that_they_had() -> None:
    recipe = staged(
        stage1={"batch_size": 256, "data": "me/a@v1", "image_folder": "images", "template": "vicuna"},
        stage2={"lr_projector": 1e-5, "lr_tower": 2e-6, "data": "me/b@v2", "image_folder": "images"},
    )
    assert checkpoint_id(make(recipe=recipe)) == GOLDEN_STAGES


def test_no_two_keys_of_a_recipe_have_one_name_in_identities() -> None:
    assert len({checkpoint_id(make(recipe=recipe)) for recipe in CHANGED}) == len(CHANGED)
    names = [len(dataclasses.fields(owner)) for owner in (Recipe, *STAGES.values())]
    assert len(identity.flat(dataclasses.asdict(RECIPE))) == sum(names) - len(STAGES)


def test_rates_of_single_methods_count_where_they_are_used() -> None:
    def named(**rates: float) -> str:
        return checkpoint_id(make(recipe=dataclasses.replace(RECIPE, lr_methods=FrozenDict(rates))))

    assert named(tokenpacker=1e-4) != GOLDEN
    assert named(mlp=1e-4) == GOLDEN


@pytest.mark.parametrize(
    "changes",
    [
        {"projector": "avg_pool"},
        {"ratio": 9},
        {"refusion": "none"},
        {"seed": 1},
        {"options": {"tokenpacker": {"heads": 4}}},
        {"options": {"vision_remember": {"scope": "global"}}},
        {"options": {"vision_remember": {"levels": (3,)}}},
        *({"recipe": recipe} for recipe in CHANGED),
    ],
)
def test_whatever_changes_the_result_changes_the_identity(changes: dict[str, object]) -> None:
    assert checkpoint_id(make(**changes)) != GOLDEN


@pytest.mark.parametrize(
    "options",
    [
        {"vision_remember": {}},
        {"vision_remember": {"scope": "local", "halo": 0}, "tokenpacker": {"heads": 8}},
        {"vision_remember": {"levels": (2, 3, 4)}, "tokenpacker": {"levels": (2, 3, 4)}},
        {"vision_remember": {"levels": None, "layers": (0, 2)}},
    ],
)
def test_defaults_written_out_do_not_change_the_identity(options: dict[str, object]) -> None:
    assert checkpoint_id(make(options=options)) == GOLDEN
    assert make(options=options) == make()


def test_a_template_of_data_that_is_not_there_is_no_part_of_the_identity() -> None:
    written = staged(stage1={"template": "vicuna"}, stage2={"template": "plain"})
    assert checkpoint_id(make(recipe=written)) == GOLDEN


def test_data_of_a_recipe_count_by_content_and_by_the_version_of_how_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "data.json"
        file.write_text('[{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]')
        cell = make(recipe=staged(stage2={"data": str(file)}))
        found.append(checkpoint_id(cell))
    assert found == [GOLDEN_DATA] * 2
    monkeypatch.setattr(identity, "CONVERSATIONS_VERSION", identity.CONVERSATIONS_VERSION + 1)
    assert checkpoint_id(cell) != GOLDEN_DATA
    assert checkpoint_id(make()) == GOLDEN  # the embedded suites do not count it


def test_options_that_came_later_leave_old_identities_as_they_were() -> None:
    old = make(projector="avg_pool", refusion="deepstack")
    assert checkpoint_id(old) == GOLDEN_DEEPSTACK
    said = {"stacks": "grid", "crops": 4, "place": "decoder"}
    written = make(projector="avg_pool", refusion="deepstack", options={"deepstack": said})
    assert checkpoint_id(written) == GOLDEN_DEEPSTACK


def test_options_that_came_later_count_where_they_are_used() -> None:
    forms = [
        {"stacks": "crops"},
        {"stacks": "crops", "crops": 9},
        {"stacks": "crops", "place": "tower"},
        {"stacks": "crops", "place": "tower", "interval": 2},
    ]
    cells = [make(projector="mlp", ratio=1, refusion="deepstack", options={"deepstack": form}) for form in forms]
    cells.append(make(projector="mlp", ratio=1, refusion="deepstack"))
    assert len({checkpoint_id(cell) for cell in cells}) == len(cells)


def test_a_frozen_tower_leaves_old_identities_as_they_were_and_a_trained_one_counts() -> None:
    assert "lr_tower" not in identity.checkpoint_identity(make())["recipe"]
    trained = make(recipe=staged(stage2={"lr_tower": 1e-6}))
    assert identity.checkpoint_identity(trained)["recipe"]["lr_tower"] == 1e-6


def test_the_order_of_options_does_not_change_the_identity() -> None:
    one = {"vision_remember": {"halo": 1, "ffn": True}, "tokenpacker": {"heads": 4}}
    other = {"tokenpacker": {"heads": 4}, "vision_remember": {"ffn": True, "halo": 1}}
    assert checkpoint_id(make(options=one)) == checkpoint_id(make(options=other))
    assert hash(make(options=one)) == hash(make(options=other))


@pytest.mark.parametrize("method", ["tokenpacker", "vision_remember"])
def test_a_new_version_of_a_used_method_changes_the_identity(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unused = checkpoint_id(make(projector="avg_pool", refusion="none"))
    monkeypatch.setitem(METHODS, method, dataclasses.replace(METHODS[method], version=2))
    assert checkpoint_id(make()) != GOLDEN
    assert checkpoint_id(make(projector="avg_pool", refusion="none")) == unused


def test_words_about_a_method_do_not_change_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = dataclasses.replace(METHODS["tokenpacker"], summary="other words", source="", details=(), module="elsewhere")
    monkeypatch.setitem(METHODS, "tokenpacker", spec)
    assert checkpoint_id(make()) == GOLDEN


@pytest.mark.parametrize("change", [{"data_version": "micro-2"}, {"name": "other"}])
def test_backbone_and_data_version_change_the_identity(change: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = dataclasses.replace(BACKBONES["frozen"], **change)  # type: ignore[arg-type]
    monkeypatch.setitem(BACKBONES, spec.name, spec)
    assert checkpoint_id(make(backbone=spec.name)) != GOLDEN


def test_estimates_and_the_default_recipe_of_a_backbone_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = dataclasses.replace(BACKBONES["frozen"], train_seconds_per_step=9.0, summary="", recipe=Recipe())
    monkeypatch.setitem(BACKBONES, "frozen", spec)
    assert checkpoint_id(make()) == GOLDEN


def test_training_version_changes_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "TRAINING_VERSION", identity.TRAINING_VERSION + 1)
    assert checkpoint_id(make()) != GOLDEN


def test_the_weights_of_the_backbone_change_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "weights"
    spec = dataclasses.replace(BACKBONES["frozen"], weights=weights)
    monkeypatch.setitem(BACKBONES, "frozen", spec)
    assert weights_hash(spec) == "unbuilt"
    assert checkpoint_id(make()) == GOLDEN
    seen: set[str] = set()
    for name, content in [("tower/a", b"1"), ("tower/b", b"1"), ("tower/b", b"2"), ("decoder/b", b"2")]:
        (weights / name).parent.mkdir(parents=True, exist_ok=True)
        (weights / name).write_bytes(content)
        os.utime(weights / name, ns=(len(seen), len(seen)))
        seen.add(checkpoint_id(make()))
    assert len(seen) == 4
    assert GOLDEN not in seen
    (weights / ".tower.tmp").write_bytes(b"unfinished")
    assert checkpoint_id(make()) in seen


def test_ids_are_the_same_in_every_process() -> None:
    code = (
        "from vr_eval.config.cell import Cell; from vr_eval.catalog.recipe import Recipe;"
        "from vr_eval.config.identity import checkpoint_id;"
        "print(checkpoint_id(Cell('micro', 'tokenpacker', 4, 'vision_remember', 'none', 0,"
        "{'vision_remember': {'halo': 1, 'ffn': True}, 'tokenpacker': {'heads': 4}}, Recipe())))"
    )
    ids = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(identity.__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        ids.add(done.stdout.strip())
    assert len(ids) == 1
    assert len(ids.pop()) == 16


def test_a_result_depends_on_checkpoint_tasks_their_versions_and_the_limit(
    load: Callable[..., Grid], resources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = load(PRODUCT)
    cell = grid.cells[0]
    first = cell_id(cell, grid)
    assert cell_id(cell, load(PRODUCT, "name=other", "batch_size=4", "baseline=null", "seeds=[0,1]")) == first
    assert cell_id(cell, load(PRODUCT, "suites=[general, doc, chart, ocr]")) == first
    different = [
        cell_id(cell, load(PRODUCT, limit=5)),
        cell_id(cell, load(PRODUCT, "suites=[ocr, doc]")),
        cell_id(grid.cells[1], grid),
        cell_id(dataclasses.replace(cell, seed=1), grid),
    ]
    monkeypatch.setattr(identity, "EVALUATION_VERSION", 2)
    different.append(cell_id(cell, grid))
    monkeypatch.undo()
    assert len({first, *different}) == 6


def test_the_format_of_a_result_identity_is_pinned(load: Callable[..., Grid]) -> None:
    assert cell_id(make(), load(PRODUCT, "suites=[ocr, doc]", limit=5)) == GOLDEN_RESULT


def test_a_new_version_of_a_task_changes_the_result_but_not_the_checkpoint(
    load: Callable[..., Grid], resources: Path
) -> None:
    grid = load(PRODUCT)
    cell = grid.cells[0]
    before = cell_id(cell, grid), checkpoint_id(cell)
    write_task(resources, "vr_micro_doc", 2)
    _scan.cache_clear()
    task_fields.cache_clear()
    assert cell_id(cell, grid) != before[0]
    assert checkpoint_id(cell) == before[1]


def test_task_versions_are_read_from_lists_and_included_files_too(resources: Path) -> None:
    folder = resources / "tasks" / "more"
    folder.mkdir()
    (folder / "_base.yaml").write_text("metadata: {version: 1.5}\nfilters: !function f.g\n")
    (folder / "a.yaml").write_text("include: _base.yaml\ntask: a\n")
    (folder / "b.yaml").write_text("task: b\nmetadata: [{version: 7}]\n")
    assert (task_version("a"), task_version("b")) == ("1.5", "7")


def test_a_task_without_a_file_a_version_or_valid_yaml_is_an_error(resources: Path) -> None:
    with pytest.raises(InputError, match=r"no file defines the task vr_micro_orc.*did you mean 'vr_micro_ocr'"):
        task_version("vr_micro_orc")
    (resources / "tasks" / "late.yaml").write_text("task: late\n")
    _scan.cache_clear()
    with pytest.raises(InputError, match=r"late\.yaml: metadata\.version: the task states no version"):
        task_version("late")
    (resources / "tasks" / "broken.yaml").write_text("task: [\n")
    _scan.cache_clear()
    with pytest.raises(InputError, match=r"broken\.yaml: the task file cannot be read"):
        task_version("late")


def test_the_order_of_keys_and_letters_of_any_language_make_no_difference_to_a_digest() -> None:
    assert digest({"b": 1, "a": "é"}) == digest({"a": "é", "b": 1})
    # SHA-256 of {"a":"\\u00e9","b":1}
    assert digest({"b": 1, "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":1}').hexdigest()[:16]
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": math.nan})
