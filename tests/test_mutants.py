"""The script that breaks the code on purpose: what it changes, and that it tells a test that bites from others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "scripts" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


SOURCE = '''"""Words: 1 + 1."""
def f(a: int = 1, *, b: "1 < 2" = True) -> list[int]:
    if a > 2 and not b:  # é
        raise ValueError(f"{a + 1}")
    total = 0
    total += a
    return sorted([x for x in (a, total) if x], reverse=b)
'''


def test_each_mutant_changes_one_place_and_leaves_words_and_types_alone(script: ModuleType) -> None:
    found = {(m.before, m.after) for m in script.mutants("f.py", SOURCE)}
    assert found == {
        ("1", "2"),
        ("True", "False"),
        ("a > 2 and (not b)", "not (a > 2 and (not b))"),
        ("a > 2 and (not b)", "a > 2 or not b"),
        ("a > 2", "a >= 2"),
        ("2", "3"),
        ("not b", "b"),
        ("0", "1"),
        ("total += a", "pass"),
        ("return sorted([x for x in (a, total) if x], reverse=b)", "return None"),
        ("sorted([x for x in (a, total) if x], reverse=b)", "sorted([x for x in (a, total) if x])"),
        ("x", "not x"),
    }
    for mutant in script.mutants("f.py", SOURCE):
        compile(mutant.text, "f.py", "exec")
        same = sum(one == other for one, other in zip(mutant.text.splitlines(), SOURCE.splitlines(), strict=True))
        assert same == 6


def test_every_module_that_is_named_is_there_and_so_are_its_tests(script: ModuleType) -> None:
    modules = script.modules([])
    for start in script.TESTS:
        assert any(module.startswith(start) for module in modules), start
    for module in modules:
        assert all((ROOT / test).is_file() for test in script.tests_of(module)), module


@pytest.mark.slow
def test_a_broken_tree_is_told_from_a_sound_one(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it():\n    assert 1 + 1 == 2\n")
    (tmp_path / "test_stuck.py").write_text("import time\ndef test_it():\n    time.sleep(60)\n")
    (tmp_path / "test_red.py").write_text("def test_it():\n    assert 1 + 1 == 3\n")
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser):\n    parser.addoption('--goldens')\n")
    for name, expected in (("it", "survived"), ("red", "killed"), ("stuck", "timeout")):
        assert script.outcome(tmp_path, [f"test_{name}.py"], tmp_path, 15) == expected
