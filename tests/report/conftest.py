"""One made-up run, built once for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.report.fixture_run import make_records, write_run


@pytest.fixture(scope="session")
def records() -> pd.DataFrame:
    return make_records()


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, records: pd.DataFrame) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "projectors", records)


@pytest.fixture(scope="session")
def report(run_dir: Path) -> str:
    from vr_eval.reporting import build

    return build(run_dir).read_text(encoding="utf-8")
