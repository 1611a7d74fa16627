from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from vr_eval.config.document import Dumper
from vr_eval.config.grid import Grid, load_grid
from vr_eval.config.schema import grid_keys
from vr_eval.errors import InputError


def subset(*values: Any) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, unique=True)


OPTIONS = {
    "vision_remember.scope": subset("local", "global"),
    "vision_remember.order": subset("cross_first", "self_first", "cross_only", "self_only"),
    "vision_remember.ffn": subset(True, False),
    "vision_remember.levels": st.lists(subset(0, 1, 2, 3, 4).map(sorted), min_size=1, max_size=2, unique_by=tuple),
    "tokenpacker.heads": subset(1, 4, 8),
}
GRIDS = st.fixed_dictionaries(
    {
        "projector": st.just(["avg_pool", "tokenpacker"]),
        "ratio": subset(1, 4, 9),
        "refusion": st.just(["none", "vision_remember"]),
    },
    optional=OPTIONS,
)
RATES = st.floats(0, 1, exclude_min=True, allow_subnormal=False)
STAGE = {
    "steps": st.integers(1, 10**6),
    "batch_size": st.none() | st.integers(1, 65_536),
    "lr_projector": st.none() | RATES,
    "data": st.none() | st.just("someone/captions@main"),
    "template": st.sampled_from([None, "plain", "vicuna"]),
}
FILES = st.fixed_dictionaries(
    {"name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True), "backbone": st.just("micro")},
    optional={
        "seeds": st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=2, unique=True),
        "suites": subset("ocr", "chart", "doc", "general"),
        "grid": GRIDS,
        "limit": st.one_of(st.none(), st.integers(1, 10**6)),
        "batch_size": st.integers(1, 256),
        "recipe": st.fixed_dictionaries(
            {},
            optional={
                "stage1": st.fixed_dictionaries({}, optional=STAGE),
                "stage2": st.fixed_dictionaries(
                    {}, optional={**STAGE, "lr_decoder": RATES, "lr_tower": st.floats(0, 1, allow_subnormal=False)}
                ),
                "warmup": st.floats(0, 1),
                "lr_methods": st.dictionaries(st.sampled_from(["mlp", "tokenpacker"]), st.floats(1e-9, 1)),
            },
        ),
    },
)


KEYS = ("projector", "ratio", "mlp.depth", "mlp", "depth", "x")


def load(content: str) -> Grid:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.yaml"
        path.write_text(content, encoding="utf-8")
        return load_grid(path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES)
@example({"name": "1e3", "backbone": "micro"})
@example({"name": "null", "backbone": "micro"})
@example({"name": "0x1F", "backbone": "micro"})
@example({"name": "2024-01-01", "backbone": "micro"})
def test_the_resolved_yaml_loads_to_the_same_grid(content: dict[str, Any]) -> None:
    content = {**content, "cells": [{"projector": "mlp"}], "baseline": {"projector": "mlp"}}
    grid = load(yaml.dump(content, Dumper=Dumper))
    again = load(grid.to_yaml())
    assert again == grid
    assert again.to_yaml() == grid.to_yaml()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES, st.data())
def test_any_configuration_can_be_the_baseline_of_resolved_yaml(content: dict[str, Any], data: st.DataObject) -> None:
    assume("grid" in content)
    content.pop("seeds", None)
    grid = load(yaml.dump(content, Dumper=Dumper))
    chosen = data.draw(st.sampled_from(grid.cells))
    grid = Grid(**{**vars(grid), "baseline": chosen})
    assert load(grid.to_yaml()).baseline == chosen


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("mlp")),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
        ),
        max_leaves=6,
    ),
    st.sampled_from(grid_keys()),
)
def test_whatever_stands_at_a_key_is_taken_or_refused_with_a_message(value: object, key: str) -> None:
    content = {"name": "a", "backbone": "micro", "cells": [{"projector": "mlp"}], key: value}
    with contextlib.suppress(InputError):
        load(yaml.dump(content, Dumper=Dumper))
