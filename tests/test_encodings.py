"""Text files of a user's own, with a byte order mark as some editors write it, and in other encodings."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from vr_eval.catalog.tasks import task_fields
from vr_eval.config.grid import load_grid
from vr_eval.errors import InputError
from vr_eval.probes.file import load_probes
from vr_eval.probes.run import _question
from vr_eval.reporting.definition import read_definition
from vr_eval.runs.folder import grid_text

GRID = "# What does it cost?\nname: größe\nbackbone: micro\ntasks: [vr_micro_ocr]\ncells: [{projector: mlp}]\n"
FILES = {
    "grid.yaml": GRID.replace("größe", "a") + "recipe: {from: own.yaml}\n",
    "own.yaml": "# größer\nstage2: {steps: 7}\n",
    "probe.yaml": "# Where is it?\nkind: probe\nname: a\ngrids: [grid.yaml]\n",
    "task.yaml": "task: größe\ndataset_path: parquet\n",
    "report.yaml": "# größer\ncolumns: [tokens]\n",
}


def write(folder: Path, encoding: str = "utf-8", mark: bytes = b"", only: str | None = None) -> None:
    for name, text in FILES.items():
        odd = only in (None, name)
        (folder / name).write_bytes(mark * odd + text.encode(encoding if odd else "utf-8"))


def read(folder: Path, name: str) -> object:
    if name in ("grid.yaml", "own.yaml"):
        return load_grid(folder / "grid.yaml")
    if name == "probe.yaml":
        return load_probes(folder / name)
    return task_fields(folder / name) if name == "task.yaml" else read_definition(folder / name)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    plain = {name: read(tmp_path, name) for name in FILES}
    (tmp_path / "marked").mkdir()
    write(tmp_path / "marked", mark=codecs.BOM_UTF8)
    monkeypatch.chdir(tmp_path / "marked")
    grid = load_grid("grid.yaml")
    assert grid.recipe.stage2.steps == 7
    assert grid_text(grid).startswith("# What does it cost?\n")
    assert load_probes("probe.yaml").cells == plain["probe.yaml"].cells  # type: ignore[attr-defined]
    assert _question("probe.yaml") == "Where is it?"
    assert task_fields(Path("task.yaml")) == plain["task.yaml"]
    assert read_definition(Path("report.yaml")) == plain["report.yaml"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("encoding", "words"),
    [("utf-16", ":1: this is UTF-16 or UTF-32 text (allowed: UTF-8)"), ("latin-1", "this is not UTF-8 text")],
)
def test_another_encoding_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, encoding: str, words: str
) -> None:
    if encoding == "latin-1":
        monkeypatch.setitem(FILES, name, FILES[name] + "# größer\n")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, encoding, only=name)
    with pytest.raises(InputError) as caught:
        read(tmp_path, name)
    assert words in str(caught.value)
    assert name in str(caught.value)
    assert len(caught.value.problems) == 1
