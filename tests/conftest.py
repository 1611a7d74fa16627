"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vr_eval.methods import method_file
from vr_eval.methods.registry import METHODS

# The hub's client reads it once, when it is imported; without it a name that is not there is asked for again and again.
os.environ["HF_HUB_OFFLINE"] = "1"

DEFAULT_GOLDENS = Path(__file__).resolve().parents[1].parent / "shared" / "goldens"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens", type=Path, default=DEFAULT_GOLDENS, help="folder of reference outputs of official implementations"
    )


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own cache."""
    monkeypatch.setenv("VR_EVAL_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def _one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this process do their work in it, where the patches of a test are; `--workers N` asks for others."""
    monkeypatch.setattr("vr_eval.runs.executors.shares.cores", lambda: 1)


@pytest.fixture(autouse=True)
def _own_methods(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The method files that a test loads are no other test's."""
    before = dict(METHODS)
    monkeypatch.setattr(method_file, "_LOADED", {})
    yield
    METHODS.clear()
    METHODS.update(before)
