"""The rooms of the package import only downwards, in the order of CONTRIBUTING's table."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vr_eval"
TABLE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| room |")[2].partition("\n\n")[0]
ROOMS = [room for row in TABLE.splitlines()[2:] for room in re.findall(r"`([\w.]+)`", row.split("|")[1])]
"""From the ground up; those of one row stand in order too."""
LIGHT = (
    *("errors", "paths", "places", "files", "catalog", "config", "records.folder"),
    *("methods.registry", "listing", "runs.plan", "cli"),
)
ENTRIES = ("", "__main__")
"""Modules above all rooms: the package itself, and `python -m vr_eval`."""


def room_of(module: str) -> str:
    """The room of a module below vr_eval: the longest name in the table that it begins with."""
    fitting = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    assert fitting, f"vr_eval.{module} is in no room of CONTRIBUTING's table"
    return max(fitting, key=len)


def modules() -> dict[str, Path]:
    """Every module of the package by its name below vr_eval."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(source: str) -> Iterator[str]:
    """What a file imports of vr_eval, wherever in the file: modules by their name below it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide which room is meant"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("vr_eval."):
                # `from module import name`: what is no module itself is a name in one.
                below = name.removeprefix("vr_eval.")
                yield below if below in MODULES else below.rpartition(".")[0]


def upwards(module: str, source: str) -> list[str]:
    """The imports of a module that lead to a room above its own."""
    own = ROOMS.index(room_of(module))
    return [name for name in imported(source) if name in ENTRIES or ROOMS.index(room_of(name)) > own]


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ENTRIES])
def test_a_room_imports_only_what_is_below(module: str) -> None:
    assert upwards(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_every_room_of_the_table_exists() -> None:
    assert len(ROOMS) == len(set(ROOMS))
    assert [room for room in ROOMS if room not in MODULES] == []


def test_an_import_upwards_is_found() -> None:
    """Inside a function, of a module or of a name in it, and from a part of a room that lies higher than the room."""
    assert upwards("config.cell", "def f():\n    from vr_eval.runs.plan import plan_grid") == ["runs.plan"]
    assert upwards("config.cell", "import vr_eval.models.lvlm") == ["models.lvlm"]
    assert upwards("micro.corpus", "from vr_eval.micro.build import weights") == ["micro.build.weights"]
    assert upwards("runs.plan", "from vr_eval import cli, paths") == ["cli"]
    assert upwards("runs.plan", "from vr_eval.config.cell import Cell") == []


@pytest.mark.parametrize("room", LIGHT)
def test_light_rooms_bring_no_torch(room: str) -> None:
    names = [f"vr_eval.{name}" for name in MODULES if name == room or name.startswith(f"{room}.")]
    heavy = "{'torch', 'transformers', 'lmms_eval', 'pandas', 'datasets', 'matplotlib'}"
    code = f"import sys, {', '.join(names)}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
