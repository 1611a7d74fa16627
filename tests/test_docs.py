"""README and documentation say what the program does: commands parse, files load, numbers are those of the reports."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

import hook
import vr_eval
from gen import costs, keys, methods, readme
from vr_eval.catalog.recipe import STAGES, Recipe
from vr_eval.catalog.tiling import TILINGS
from vr_eval.cli.arguments import parser
from vr_eval.config.backbone_keys import DescribedBackbone
from vr_eval.config.decoding import Decoding
from vr_eval.config.grid import load_grid
from vr_eval.config.schema import GridFile
from vr_eval.measure.flops import prefill_flops
from vr_eval.methods import method_file
from vr_eval.methods.registry import METHODS
from vr_eval.models.build import cell_model
from vr_eval.probes.options import ProbeFile

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "pages").glob("*.md"))]
CODE = re.compile(r"^ *```(?:sh|text)\n(.*?)^ *```$|((?:^ {4}.*\n)+)", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^ *(?:srun )?(?:vr-eval|torchrun .*-m vr_eval) +(\S.*?)(?: {2,}#.*)?$", re.MULTILINE)
INLINE = re.compile(r"`vr-eval ([^`]+)`")
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WHOLE = {"name": "docs", "backbone": "micro", "cells": [{"projector": "mlp"}]}
"""A grid that a block about single keys is put into."""


def commands(page: Path) -> list[str]:
    """Every command of `vr-eval` that stands in a page's code, without what stands around it."""
    text = page.read_text(encoding="utf-8")
    blocks = ["".join(groups) for groups in CODE.findall(text)]
    return [command for block in blocks for command in COMMAND.findall(block)]


def inline(page: Path) -> list[str]:
    """Those within a line, which may leave arguments out."""
    return [" ".join(found.split()) for found in INLINE.findall(page.read_text(encoding="utf-8"))]


def cases(find: Callable[[Path], list[str]]) -> list[Any]:
    """What `find` finds on each page, each once, as parameters of a test."""
    found = [(page.stem, text) for page in PAGES for text in dict.fromkeys(find(page))]
    return [pytest.param(text, id=f"{stem}: {text[:60]!r}") for stem, text in found]


def blocks(page: Path) -> list[str]:
    return YAML.findall(page.read_text(encoding="utf-8"))


def python(page: Path) -> list[str]:
    return PYTHON.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", cases(commands))
def test_every_command_is_one(command: str) -> None:
    assert callable(parser().parse_args(shlex.split(command)).command)


@pytest.mark.parametrize("command", cases(inline))
def test_every_command_within_a_line_exists(command: str) -> None:
    words = shlex.split(command)
    words += ["FILE"] if len(words) == 1 and words[0] not in ("list", "import", "micro") else []
    if "--help" in words:
        with pytest.raises(SystemExit, match="0"):
            parser().parse_args(words)
    else:
        parser().parse_args(words)


def test_commands_are_found() -> None:
    assert len(cases(commands)) > 20
    assert len(cases(inline)) > 10


@pytest.mark.parametrize("text", cases(blocks))
def test_every_file_loads(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = yaml.safe_load(text)
    for name in re.findall(r"[\w-]+\.jsonl?\b", text):  # data that a reader has
        (tmp_path / name).write_text("[]")
    for name in re.findall(r"[\w-]+\.py\b", text):
        shutil.copy(ROOT / "tests" / "outside" / "vr_outside.py", tmp_path / name)
    (tmp_path / "images").mkdir()
    path = tmp_path / "grid.yaml"
    path.write_text(text if "cells" in given or "grid" in given else yaml.safe_dump({**WHOLE, **given}))
    monkeypatch.setattr(method_file, "_LOADED", {})
    with patch.dict(METHODS):  # the methods of a file that it names are no other test's
        assert load_grid(str(path)).cells


@pytest.mark.parametrize("text", cases(python))
def test_python_names_what_is_there(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vr_eval":
            assert hasattr(vr_eval, node.attr), node.attr


def test_readme_is_short_and_shows_the_committed_report() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert len(text.encode()) <= 6_000
    found = readme.BLOCK.search(text)
    assert found is not None
    assert found[2] == f"{readme.readme_table()}\n", "python docs/gen/readme.py writes it anew"
    assert readme.PICTURE.read_text(encoding="utf-8") == readme.picture(), "python docs/gen/readme.py draws it anew"


@pytest.mark.parametrize(
    "owner", [GridFile, Recipe, Decoding, DescribedBackbone, *STAGES.values(), *TILINGS.values(), ProbeFile]
)
def test_tables_of_keys_hold_every_key(owner: type) -> None:
    made = keys.probe_keys() if owner is ProbeFile else keys.grid_keys()
    for field in dataclasses.fields(owner):
        assert re.search(rf"^\| `{field.name}` \| [^|]+ \| [^|]+ \|", made, re.MULTILINE), field.name


def test_a_method_has_a_page_with_its_options_and_costs() -> None:
    page = methods.page(METHODS["avg_pool"])
    assert "| `avg_pool.depth` |" in page
    whole, own = (re.search(rf"^\| `{label}` \| (\d+) ", page, re.MULTILINE) for label in ("mlp", "avg_pool 1/4"))
    assert whole is not None
    assert own is not None
    assert int(whole[1]) == 4 * int(own[1]) == 24**2


def test_fragments_are_of_methods() -> None:
    assert {path.stem for path in methods.FRAGMENTS.glob("*.md")} <= set(METHODS)


def test_a_page_that_loads_from_elsewhere_is_noticed() -> None:
    for tag in (
        '<script src="https://a.b/c.js">',
        '<link rel="stylesheet" href="//a.b/c.css">',
        "<img src=http://a/b>",
    ):
        assert hook._OUTSIDE.search(tag), tag
    for tag in ('<a href="https://a.b/">', '<script src="assets/a.js">', '<img src="data:image/png;base64,AA">'):
        assert not hook._OUTSIDE.search(tag), tag


@pytest.mark.parametrize(
    "row",
    [
        {"projector": "mlp"},
        {"projector": "tokenpacker", "ratio": 4, "refusion": "vision_remember"},
        {"projector": "mlp", "refusion": "deepstack", "deepstack.stacks": "crops"},
        {"projector": "mlp", "pruning": "fastv", "fastv.keep_ratio": 0.25},
        {"projector": "mlp", "image": "downsample"},
    ],
    ids=str,
)
def test_costs_without_arithmetic_are_those_of_a_run(row: dict[str, object]) -> None:
    model, _ = cell_model(costs.cell_of("micro", row), None)
    counted = prefill_flops(model)
    with costs.ShapesOnly():
        assert prefill_flops(model) == counted
