"""Whatever stands in a grid or a probe file: it loads, or is refused in one error, quickly."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vr_eval.catalog.fields import checked
from vr_eval.catalog.recipe import STAGES, Recipe
from vr_eval.cli import main
from vr_eval.config.backbone_keys import DescribedBackbone
from vr_eval.config.decoding import Decoding
from vr_eval.config.document import MAX_ENTRIES, MAX_PROBLEMS, MAX_VALUES
from vr_eval.config.grid import Grid, load_grid
from vr_eval.config.schema import MAX_CELLS, MAX_EXCLUDED, GridFile
from vr_eval.errors import InputError, Problem
from vr_eval.methods.registry import METHODS
from vr_eval.probes.file import load_probes
from vr_eval.probes.options import ProbeFile
from vr_eval.runs.plan import plan_grid

Load = Callable[..., Grid]
Refused = Callable[..., str]
HEAD = "name: hostile\nbackbone: micro\n"
MLP = f"{HEAD}cells: [{{projector: mlp}}]\n"
RECIPES = (Recipe, *STAGES.values())
OWNERS = (GridFile, *RECIPES, Decoding, DescribedBackbone, ProbeFile, *(spec.options for spec in METHODS.values()))
SECONDS = 3.0
"""Of the processor, for one file; measured 0.0 to 1.4 on one core, the most where 30,000 values are counted."""

ROWS = {
    "projector": "",
    "refusion": "projector: avg_pool, ",
    "pruning": "projector: avg_pool, ",
    "image": "projector: mlp, ",
}


def numeric_places() -> Iterator[str]:
    """Grid files with a hole, ``?``, for a number, at every key that takes one."""
    yield from (f"{MLP}{key}: ?\n" for key in ("seeds", "limit", "batch_size", "name", "tasks"))
    yield f"{MLP}seeds: [?, 1]\n"
    yield f"{HEAD}grid: {{projector: [avg_pool], ratio: [4, ?]}}\n"
    yield f"{HEAD}cells: [{{projector: avg_pool, ratio: ?}}]\n"
    yield from (f"{MLP}recipe: {{{field.name}: ?}}\n" for field in dataclasses.fields(Recipe))
    for name, stage in STAGES.items():
        yield from (f"{MLP}recipe: {{{name}: {{{field.name}: ?}}}}\n" for field in dataclasses.fields(stage))
    yield from (f"{MLP}recipe: {{{name}: ?}}\n" for name in ("stage1_steps", "lr_decoder"))
    yield from (f"{MLP}decoding: {{{field.name}: ?}}\n" for field in dataclasses.fields(Decoding))
    own = "name: mine, from: llava_1_5_7b"
    for field in dataclasses.fields(DescribedBackbone):
        yield f"name: hostile\nbackbone: {{{own}, {field.name}: ?}}\ncells: [{{projector: mlp}}]\n"
    yield f"{MLP}recipe: {{lr_methods: {{tokenpacker: ?}}}}\n"
    for spec in METHODS.values():
        row = f"{ROWS[spec.seam]}{spec.seam}: {spec.name}" + ("" if spec.name == "mlp" else ", ratio: 4")
        for field in dataclasses.fields(spec.options):
            for hole in ("?", "[?]", "[1, ?]"):
                yield f"{HEAD}cells: [{{{row}, {spec.name}.{field.name}: {hole}}}]\n"
                yield f"{HEAD}options: {{{spec.name}: {{{field.name}: {hole}}}}}\ncells: [{{{row}}}]\n"


PLACES = list(numeric_places())
NUMBERS = st.one_of(
    st.integers(-(10**420), 10**420).map(str),
    st.sampled_from([sign + "9" * digits for sign in ("", "-") for digits in (19, 309, 400, 4300, 5000)]),
    st.sampled_from(["1e400", "-1e400", "1e308", "1e-400", ".inf", "-.inf", ".nan", "0x" + "f" * 400, "1_0" * 300]),
    st.floats().map(repr),
    st.integers(-3, 10**7).map(str),
)


@given(place=st.sampled_from(PLACES), number=NUMBERS)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_number_loads_and_is_planned_or_is_refused(place: str, number: str, tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(place.replace("?", number))
    started = time.process_time()
    try:
        grid = load_grid(file)
    except InputError:
        pass
    else:
        plan = plan_grid(grid)
        assert plan.to_json()
        assert plan.to_text()
        file.write_text(grid.to_yaml())
        assert load_grid(file) == grid
    assert time.process_time() - started < SECONDS


@given(
    key=st.sampled_from([field.name for field in dataclasses.fields(ProbeFile)]), number=NUMBERS, listed=st.booleans()
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_so_does_any_number_in_a_probe_file(key: str, number: str, listed: bool, tmp_path: Path) -> None:
    content = {"kind": "probe", "name": "hostile", "grids": "[shipped]", key: f"[{number}]" if listed else number}
    file = tmp_path / "probe.yaml"
    file.write_text("".join(f"{name}: {value}\n" for name, value in content.items()))
    started = time.process_time()
    with contextlib.suppress(InputError):
        load_probes(file)
    assert time.process_time() - started < SECONDS


def test_every_whole_number_has_an_end() -> None:
    asked = 0
    for owner in OWNERS:
        kinds = get_type_hints(owner)
        for field in dataclasses.fields(owner):
            for kind in _parts(kinds[field.name]):
                if kind in (int, float):
                    asked += 1
                    value: Any = 10**399
                    with pytest.raises(ValueError, match=r"number( above 0)?(,| from -?[\d.]+ to \d+)"):
                        checked(owner, field.name, _within(kinds[field.name], value))
    assert asked > 50


def _parts(kind: Any) -> tuple[Any, ...]:
    """The types of the single values of a field."""
    if isinstance(kind, UnionType):
        return tuple(part for option in kind.__args__ for part in _parts(option))
    return tuple(part for argument in get_args(kind) if argument is not ... for part in _parts(argument)) or (kind,)


def _within(kind: Any, value: object) -> object:
    """`value` as a field of this type holds it."""
    text = str(kind)
    return [value] if "tuple" in text else {"tokenpacker": value} if "Mapping" in text else value


@pytest.mark.parametrize("stage", STAGES)
def test_steps_of_400_digits_are_refused_with_the_range(refused: Refused, stage: str) -> None:
    message = refused(f"{MLP}recipe: {{{stage}: {{steps: {10**399}}}}}\n")
    assert f"grid.yaml:4: recipe.{stage}.steps: this value does not fit" in message
    assert "allowed: a whole number from 0 to 1000000)" in message
    assert len(message) < 400


def test_from_the_command_line_too(refused: Refused, load: Load) -> None:
    message = refused(MLP, f"recipe.stage1.steps={'9' * 400}", f"limit={'9' * 5000}")
    assert "--set: recipe.stage1.steps: this value does not fit" in message
    assert "--set: limit: this number is too long" in message
    assert "a number of thousands of digits" in refused(MLP, limit=10**5000)
    assert load(MLP, limit=1_000_000).limit == 1_000_000


@pytest.mark.parametrize("option", ["--limit", "--batch-size"])
@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "-1", "0", "1e400", "²"])
def test_an_option_takes_no_such_number(option: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "shipped", f"{option}={number}"])
    assert ended.value.code == 2
    assert len(message := capsys.readouterr().err.splitlines()[-1]) < 200
    assert "must be a whole number, at least 1" in message


def listed(count: int, entry: Callable[[int], str] = str) -> str:
    return f"[{', '.join(map(entry, range(count)))}]"


HUGE = {
    "seeds": (f"{MLP}seeds: {listed(100_000)}\n", f"more than {MAX_ENTRIES} entries"),
    "cells in all": (
        f"{HEAD}cells: [{{projector: mlp}}, {{projector: avg_pool, ratio: 4}}]\nseeds: {listed(MAX_ENTRIES)}\n",
        f"this asks for {2 * MAX_ENTRIES} cells, seeds included (allowed: at most {MAX_CELLS})",
    ),
    "axes": (
        f"{HEAD}grid: {{projector: [mlp], pruning: [random], random.seed: {listed(2000)}, random.layer: [1, 2, 3]}}\n",
        f"at most {MAX_CELLS}",
    ),
    "rows": (f"{HEAD}cells: {listed(5000, lambda i: '{projector: mlp}')}\n", f"more than {MAX_ENTRIES} entries"),
    "values": (
        f"{HEAD}cells: {listed(2000, lambda i: f'{{projector: mlp, a: [{i}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]}}')}\n",
        f"more than {MAX_VALUES} values",
    ),
    "exclude": (
        f"{HEAD}grid: {{projector: [mlp], pruning: [random], random.seed: {listed(2000)}}}\n"
        f"exclude: {listed(2000, lambda i: f'{{random.seed: {i}}}')}\n",
        f"it has 2000 rows (allowed: at most {MAX_EXCLUDED})",
    ),
    "keys": (MLP + "".join(f"key{i}: 1\n" for i in range(1990)), f"{1990 - MAX_PROBLEMS} more problems"),
    "methods": (f"{HEAD}grid: {{projector: {listed(2000, lambda i: f'avg_poo{i}')}}}\n", "more problems"),
    "text": (f"{MLP}recipe: {{stage1: {{data: {'a' * 450_000}}}}}\n", "text of at most 4096 characters"),
    "name": (f"backbone: micro\nname: {'a' * 450_000}\n", "cannot name a run"),
    "quotes": (f'{MLP}tasks: "{"a b " * 110_000}"\n', "unknown task"),
}


@pytest.mark.parametrize("what", HUGE)
def test_too_much_is_refused_quickly(refused: Refused, what: str) -> None:
    text, expected = HUGE[what]
    started = time.process_time()
    message = refused(text)
    assert time.process_time() - started < SECONDS
    assert expected in message
    assert message.count("\n") <= 2 * MAX_PROBLEMS


def test_the_largest_grid_loads_and_comes_back(load: Load) -> None:
    grid = load(f"{MLP}seeds: {listed(MAX_CELLS)}\n")
    assert len(grid.cells) == MAX_CELLS
    rows = listed(MAX_CELLS, lambda i: f"{{projector: mlp, pruning: random, random.seed: {i}}}")
    grid = load(f"{HEAD}cells: {rows}\n")
    assert load(grid.to_yaml()) == grid


@pytest.mark.parametrize("recipe", ["{stage1: {data: ?}}", "{stage2: {image_folder: ?}}", "{from: ?}"])
@pytest.mark.parametrize("name", ["~nobody-of-this-name/data.json", "a" * 3000, '"nul\\0byte"', "a/" * 3000])
def test_what_can_be_no_path_is_refused(refused: Refused, recipe: str, name: str) -> None:
    assert "grid.yaml:4: " in (message := refused(f"{MLP}recipe: {recipe.replace('?', name)}\n"))
    assert "cannot be a path" in message or "no text" in message or "does not fit" in message


def test_half_a_character_is_refused(refused: Refused) -> None:
    assert "grid.yaml:4: a NUL or half of a character" in refused(f'{MLP}recipe: {{stage1: {{data: "a\\ud800"}}}}\n')


def test_a_number_that_cannot_be_written_has_words() -> None:
    assert Problem("no", given=10**5000).render() == "no (given: a number of thousands of digits)"
