"""JSON and JSONL files of conversations: cut into records, whatever mark, encoding or damage they come with."""

from __future__ import annotations

import codecs
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vr_eval.catalog.recipe import StageData
from vr_eval.errors import InputError
from vr_eval.paths import home
from vr_eval.training.records import Records, open_records
from vr_eval.training.typed import BrokenSample


def sample(name: Any, text: str = "this") -> dict[str, Any]:
    turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": text}]
    return {"id": name, "image": f"{name}.png", "conversations": turns}


def opened(folder: Path, content: bytes, name: str = "data.json") -> Records:
    (folder / name).write_bytes(content)
    return open_records(StageData(str(folder / name), None, "chatml"))


def found(records: Records) -> list[str]:
    """Of each record, its answer or what is wrong with it."""
    answers = []
    for row in range(len(records)):
        try:
            answers.append(records[row].turns[0][1])
        except BrokenSample as error:
            answers.append(str(error))
    return answers


TWO = [sample(0), sample("1", "größer 😀")]
WRITTEN = {
    "data.json": json.dumps(TWO, ensure_ascii=False, indent=2),
    "data.jsonl": "\n\n".join(json.dumps(record, ensure_ascii=False) for record in TWO) + "\n",
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str, mark: bytes) -> None:
    records = opened(tmp_path, mark + WRITTEN[name].encode(), name)
    assert found(records) == ["this", "größer 😀"]
    assert [records.name(row) for row in range(2)] == ["0", "1"]
    assert records.image_folder == tmp_path


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_one_error(tmp_path: Path, name: str, encoding: str) -> None:
    with pytest.raises(InputError, match=rf"{name}:1: this is UTF-16 or UTF-32 text \(allowed: UTF-8\)"):
        opened(tmp_path, WRITTEN[name].encode(encoding), name)


def test_the_image_files_that_records_name_are_noticed(tmp_path: Path) -> None:
    odd = [{**sample(0), "image": ["a\0b", "x" * 5000]}, {**sample(1), "image": 7}, 7]
    records = opened(tmp_path, json.dumps([*TWO, *odd]).encode())
    seen = {records.identity()}
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes(b"")
        seen.add(records.identity())
    assert records.identity() in seen
    assert len(seen) == 3
    (tmp_path / "2.png").write_bytes(b"")  # which no record names
    assert records.identity() in seen


def test_a_list_is_no_file_of_lines_whatever_was_kept_of_it(tmp_path: Path) -> None:
    assert len(opened(tmp_path, WRITTEN["data.json"].encode())) == 2
    with pytest.raises(InputError, match=r"data\.jsonl:1: cannot be read"):
        opened(tmp_path, WRITTEN["data.json"].encode(), "data.jsonl")


DEEP = '{"id": "deep", "conversations": ' + "[" * 50_000 + "]" * 50_000 + "}"
LONG = '{"id": ' + "7" * 5000 + "}"
TRICKY = json.dumps(sample("t", 'a "]}, [{ \\'))


def test_what_cannot_be_parsed_is_one_broken_sample(tmp_path: Path) -> None:
    whole = json.dumps(sample("w"))
    elements = [whole, DEEP, TRICKY, LONG, whole, DEEP]
    words = ["this", "its JSON is nested too deeply", 'a "]}, [{ \\', "it holds a number that is too long"]
    expected = [*words, "this", words[1]]
    assert found(opened(tmp_path, ("[" + ",\n ".join(elements) + "]").encode())) == expected
    assert found(opened(tmp_path, "\n".join(elements).encode(), "data.jsonl")) == expected


def test_a_line_that_is_no_json_is_one_broken_sample(tmp_path: Path) -> None:
    whole = json.dumps(sample(0)).encode()
    content = b"\n".join([whole, b"{", whole, b'"\xff"', b"", whole, b""])
    records = opened(tmp_path, content, "data.jsonl")
    assert found(records) == ["this", "it is no JSON", "this", "it is no UTF-8 text", "this"]
    assert [records.name(row) for row in range(5)] == ["0", "1", "0", "3", "0"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data.jsonl", WRITTEN["data.jsonl"][:-9].encode(), "data.jsonl:3: the file ends within a record"),
        ("data.jsonl", b"{\n[\n", "data.jsonl:1: cannot be read: it is no JSON"),
        ("data.json", WRITTEN["data.json"][:-9].encode(), "data.json:28: cannot be read: Expecting ',' delimiter"),
        ("data.json", WRITTEN["data.json"].encode()[:-2], "data.json:29: cannot be read: Expecting ',' delimiter"),
        ("data.json", b"[1,\n2,\n]", "data.json:3: cannot be read: Expecting value"),
        ("data.json", b"[1,\n2] []", "data.json:2: cannot be read: Extra data"),
        ("data.json", b"[1 2]", "data.json:1: cannot be read: Expecting ',' delimiter"),
        ("data.json", b"", "data.json:1: cannot be read: Expecting value"),
        ("data.json", b'[\n"\xff"]', "data.json:2: this is not UTF-8 text"),
        ("data.json", b'{"a": []}', "must be a list of conversations (given: 'dict')"),
        ("data.json", b"[" * 50_000, "data.json:1: cannot be read: Expecting ',' delimiter"),
        ("data.json", b'{"a":' * 50_000, "data.json: must be a list of conversations"),
        ("data.json", b"7" * 5000, "data.json: must be a list of conversations"),
    ],
)
def test_a_damaged_file_is_one_error(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        opened(tmp_path, content, name)
    assert words in str(caught.value)
    assert not list((home() / "training-data").glob("records*"))


def read_damaged(folder: Path, name: str, count: int) -> None:
    whole, outcomes = WRITTEN[name].encode(), set()
    for number in range(count):
        draw = random.Random(f"{name}/{number}")
        content = bytearray(whole[: draw.randrange(1, len(whole))] if draw.random() < 0.2 else whole)
        for _ in range(draw.choice((0, 1, 2, 5))):
            content[draw.randrange(len(content))] = draw.choice((0, 0x22, 0x2C, 0x5B, 0x5D, 0x7B, draw.randrange(256)))
        try:
            records = opened(folder, bytes(content), name)
        except InputError:
            outcomes.add("refused")
            continue
        assert records.identity()
        outcomes.update(found(records))
        assert all(records.name(row) for row in range(len(records)))
    assert {"refused", "this"} < outcomes


@pytest.mark.parametrize("name", WRITTEN)
def test_damaged_files_are_refused_or_hold_broken_samples(tmp_path: Path, name: str) -> None:
    read_damaged(tmp_path, name, 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
def test_1500_damaged_files(tmp_path: Path, name: str) -> None:
    read_damaged(tmp_path, name, 1500)


KILLED = """\
import os, sys
import pyarrow as pa
from vr_eval.catalog.recipe import StageData
from vr_eval.training.records import open_records

make = pa.RecordBatch.from_pylist
batches = iter(range(3))

class Batch(pa.RecordBatch):
    @staticmethod
    def from_pylist(rows, schema):
        if next(batches) == 2:
            os.kill(os.getpid(), 9)
        return make(rows, schema=schema)

pa.RecordBatch = Batch
open_records(StageData(sys.argv[1], None, "chatml"))
"""


def test_a_kill_while_records_are_kept_leaves_no_half_of_them(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([sample(number) for number in range(3500)]))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list((home() / "training-data").glob("records*"))
    assert len(open_records(StageData(str(path), None, "chatml"))) == 3500


def test_json_files_of_a_folder_are_read_by_the_same_reader(tmp_path: Path) -> None:
    """The datasets library makes text of numbers, and JSON of the text beside them, where a first file holds text."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps(sample(0)) + "\n")
    (folder / "b.json").write_text(json.dumps([sample(1, 7), sample(2, True), sample(3)]))  # type: ignore[arg-type]
    broken = "a turn says something that is no text"
    for _ in range(2):
        records = open_records(StageData(str(folder), None, "chatml"))
        assert found(records) == ["this", broken, broken, "this"]
        assert [records.name(row) for row in range(4)] == ["0", "1", "2", "3"]
        assert records.image_folder == folder
    before = records.identity()
    (folder / "b.json").write_text(json.dumps([sample(1, "a"), sample(2, "b"), sample(3)]))
    records = open_records(StageData(str(folder), None, "chatml"))
    assert found(records) == ["this", "a", "b", "this"]
    assert records.identity() != before
