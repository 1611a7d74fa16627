"""What was found out about samples is kept, and holds as long as nothing that was looked at has changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.llava import image
from tests.training.test_dialogues import turns, write_data, write_grid
from vr_eval.config.grid import load_grid
from vr_eval.models.build import build_lvlm
from vr_eval.paths import home
from vr_eval.training.dialogues import Checked, Reader, dialogues


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("built")
    write_data(folder, count=1)
    (cell,) = load_grid(write_grid(folder)).cells
    return build_lvlm(cell)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are looked at."""
    rows: list[int] = []
    check = Reader.check

    def noted(self: Reader, sample: dict[str, int]) -> dict[str, Any]:
        rows.append(sample["row"])
        return check(self, sample)

    monkeypatch.setattr(Reader, "check", noted)
    return rows


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    return tmp_path


def checked(folder: Path, built: Any, data: str = "data.json") -> Checked:
    (cell,) = load_grid(write_grid(folder, data=data, more=", broken: 0.6")).cells
    return dialogues(cell, 2, *built)


def broken(folder: Path, built: Any, data: str = "data.json") -> dict[str, str]:
    return dict(checked(folder, built, data).broken)


@pytest.mark.parametrize("data", ["data.json", "lines", "data.parquet", "saved"])
def test_what_was_looked_at_is_not_looked_at_again(folder: Path, built: Any, looked: list[int], data: str) -> None:
    records = json.loads((folder / "data.json").read_text())
    (folder / "lines").mkdir()
    (folder / "lines/a.jsonl").write_text("\n".join(map(json.dumps, records[:4])))
    (folder / "lines/b.jsonl").write_text("\n".join(map(json.dumps, records[4:])))
    listed = [
        {**one, "image": [one.get("image", [])] if one["id"] % 3 == 0 else one.get("image", [])} for one in records
    ]
    datasets.Dataset.from_list(listed).to_parquet(str(folder / "data.parquet"))
    datasets.Dataset.from_list(listed).save_to_disk(str(folder / "saved"))
    first = checked(folder, built, data)
    assert looked == list(range(10))
    assert not first.broken
    again = checked(folder, built, data)
    assert len(looked) == 10
    assert (again.dialogues.rows, again.dialogues.lengths) == (first.dialogues.rows, first.dialogues.lengths)


def test_images_that_come_change_or_go_are_seen(folder: Path, built: Any) -> None:
    first = folder / "images/0-0.png"
    whole = first.read_bytes()
    first.unlink()
    assert broken(folder, built) == {"0": "an image is missing"}
    first.write_bytes(whole)
    assert broken(folder, built) == {}
    first.write_bytes(whole[:60])
    assert broken(folder, built) == {"0": "an image cannot be read"}
    first.unlink()
    first.mkdir()
    assert broken(folder, built) == {"0": "an image is no file"}
    first.rmdir()
    first.write_bytes(b"\0" * len(whole))
    os.utime(first, ns=(1, 1))
    assert broken(folder, built) == {"0": "an image cannot be read"}
    first.write_bytes(whole)  # of the same size, but later
    assert broken(folder, built) == {}


def test_images_beside_a_table_are_seen_too(folder: Path, built: Any) -> None:
    rows = [{"id": str(n), "image": f"{n}-0.png", "conversations": turns(("<image>a?", "b"))} for n in range(6)]
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "data.parquet"))
    whole = (folder / "images/3-0.png").read_bytes()
    (folder / "images/3-0.png").unlink()
    assert broken(folder, built, "data.parquet") == {"3": "an image is missing"}
    (folder / "images/3-0.png").write_bytes(whole)
    assert broken(folder, built, "data.parquet") == {}


@pytest.mark.parametrize("data", ["data.json", "data.parquet"])
def test_the_same_data_elsewhere_is_another_thing(folder: Path, built: Any, data: str) -> None:
    """Equal files, with other images beside them."""
    records = [{"id": str(n), "image": f"{n}.png", "conversations": turns(("<image>a?", "b"))} for n in range(5)]
    table = datasets.Dataset.from_list(records)
    for place, lacking in (("one", "2.png"), ("other", "4.png")):
        here = folder / place
        here.mkdir()
        if data == "data.json":
            (here / data).write_text(json.dumps(records))
        else:
            table.to_parquet(str(here / data))
        for record in records:
            image((30, 20), seed=0).save(here / str(record["image"]))
        (here / lacking).unlink()
        grid = write_grid(here, data=data, more=", broken: 0.2")
        grid.write_text(grid.read_text().replace(", image_folder: images", ""))
        (cell,) = load_grid(grid).cells
        assert dict(dialogues(cell, 2, *built).broken) == {lacking[0]: "an image is missing"}


def test_another_tokenizer_counts_anew(folder: Path, built: Any, looked: list[int]) -> None:
    model, processor = built
    checked(folder, built)
    vocabulary = processor.tokenizer.get_vocab()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(processor.tokenizer), "get_vocab", lambda _: {**vocabulary, "new": 10**6})
        checked(folder, (model, processor))
    assert len(looked) == 20


SCRIPT = """\
import os, sys
from vr_eval.config.grid import load_grid
from vr_eval.models.build import build_lvlm
from vr_eval.training import dialogues as module

(cell,) = load_grid("own.yaml").cells
built = build_lvlm(cell)
if sys.argv[1:] == ["kill"]:
    write = module.Table.to_parquet

    def half(table, path):
        write(table, path)
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
        os.kill(os.getpid(), 9)

    module.Table.to_parquet = half
found = module.dialogues(cell, 2, *built)
print(len(found.dialogues), found.broken)
"""


def other_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_nothing_half(folder: Path, built: Any) -> None:
    (folder / "images/0-0.png").unlink()
    write_grid(folder, more=", broken: 0.6")
    killed = other_process(folder, "kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not list((home() / "training-data").glob("checked-*"))
    assert broken(folder, built) == {"0": "an image is missing"}


@pytest.mark.slow
def test_several_processes_find_the_same(folder: Path) -> None:
    (folder / "images/0-0.png").unlink()
    write_grid(folder, more=", broken: 0.6")
    done: list[subprocess.CompletedProcess[str]] = []
    threads = [threading.Thread(target=lambda: done.append(other_process(folder))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.returncode for process in done] == [0, 0, 0], done[0].stderr[-2000:]
    assert {process.stdout for process in done} == {"9 (('0', 'an image is missing'),)\n"}
    kept = sorted(path.name.split("-")[0] for path in (home() / "training-data").iterdir() if path.name != "lock")
    assert kept == ["checked", "records"]
