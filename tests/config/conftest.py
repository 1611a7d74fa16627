from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.grid_texts import MINIMAL, SUITES, write_task
from vr_eval import paths
from vr_eval.config.grid import Grid, load_grid
from vr_eval.errors import InputError


@pytest.fixture(autouse=True)
def resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Task files and an ablation of the tests' own, so that they do not hang on those of the project."""
    root = tmp_path / "resources"
    (root / "tasks" / "micro").mkdir(parents=True)
    (root / "ablations").mkdir()
    for suite in SUITES:
        write_task(root, f"vr_micro_{suite}", 1)
    (root / "ablations" / "shipped.yaml").write_text(MINIMAL)
    monkeypatch.setattr(paths, "resource", lambda name: root / name)
    monkeypatch.setenv("VR_EVAL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return root


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Grid]:
    """Loads a grid from text."""

    def load_text(text: str, *overrides: str, **arguments: object) -> Grid:
        path = tmp_path / "grid.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return load_grid("grid.yaml", overrides, **arguments)  # type: ignore[arg-type]

    return load_text


@pytest.fixture
def refused(load: Callable[..., Grid]) -> Callable[..., str]:
    """Loads a grid that must be refused; returns the message."""

    def refused_text(text: str, *overrides: str, **arguments: object) -> str:
        with pytest.raises(InputError) as caught:
            load(text, *overrides, **arguments)
        return str(caught.value)

    return refused_text
