"""lmms-eval stays behind its adapter: everything else works, and is tested, without it."""

from __future__ import annotations

import ast
from pathlib import Path

from vr_eval.paths import PACKAGE

ALLOWED = {"adapters/lmms.py", "adapters/lmms_tasks.py", "adapters/manifest.py"}
"""The model and the tasks; and the entry point, which lmms-eval itself calls."""


def imports(file: Path) -> set[str]:
    """The top-level packages that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_only_the_adapter_imports_lmms_eval() -> None:
    importing = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if "resources" not in file.relative_to(PACKAGE).parts and "lmms_eval" in imports(file)
    }
    assert importing == ALLOWED
