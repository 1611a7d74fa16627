"""Tables of the datasets library: every form that published data have, and columns that can hold no such thing."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from datasets import Features, LargeList, List, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image
from pyarrow import parquet

from vr_eval.catalog.recipe import StageData
from vr_eval.errors import InputError
from vr_eval.training.records import Records, open_records
from vr_eval.training.typed import BrokenSample

SAID = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "that"}]
OF_OLD = {"from": ["human", "gpt"], "value": ["<image>\nwhat?", "that"]}
LISTED, PAIRED = (pa.struct({"from": kind, "value": kind}) for kind in (pa.string(), pa.list_(pa.string())))
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def red() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(buffer, "PNG")
    return buffer.getvalue()


def written(folder: Path, **columns: Any) -> Records:
    """A parquet file of one row beside `a.png`, opened."""
    (folder / "a.png").write_bytes(red())
    given = {"id": pa.array(["000"]), "conversations": pa.array([SAID], pa.list_(LISTED)), **columns}
    parquet.write_table(pa.table(given), folder / "train.parquet")
    return open_records(StageData(str(folder / "train.parquet"), None, "chatml"))


def check(records: Records, images: int = 1) -> None:
    dialogue = records[0]
    assert dialogue.turns == (("<image>\nwhat?", "that"),)
    assert [records.load(image).size for image in dialogue.images] == [(30, 20)] * images


@pytest.mark.parametrize(
    ("image", "kind", "count"),
    [
        ({"bytes": red(), "path": "000.png"}, STRUCT, 1),
        ({"bytes": None, "path": "a.png"}, STRUCT, 1),
        ("a.png", pa.string(), 1),
        ("a.png", pa.large_string(), 1),
        ("a.png", pa.string_view(), 1),
        ("a.png", pa.dictionary(pa.int32(), pa.string()), 1),
        (red(), pa.binary(), 1),
        (red(), pa.large_binary(), 1),
        (["a.png", "a.png"], pa.list_(pa.string()), 2),
        (["a.png", "a.png"], pa.list_(pa.string(), 2), 2),
        ([{"bytes": red(), "path": None}, {"bytes": None, "path": "a.png"}], pa.list_(STRUCT), 2),
        ([{"bytes": red(), "path": None}], pa.large_list(STRUCT), 1),
        ([red()], pa.list_(pa.binary()), 1),
        ([], pa.list_(STRUCT), 0),
        ([], pa.list_(pa.null()), 0),
        *((None, kind, 0) for kind in (pa.null(), pa.string(), STRUCT, pa.list_(STRUCT), pa.binary())),
    ],
)
@pytest.mark.parametrize("name", ["image", "images"])
def test_every_form_of_images(tmp_path: Path, name: str, image: Any, kind: pa.DataType, count: int) -> None:
    records = written(tmp_path, **{name: pa.array([image], kind)})
    check(records, count)
    before = records.identity()
    (tmp_path / "a.png").unlink()
    assert (records.identity() != before) == ("a.png" in str(image))


@pytest.mark.parametrize(
    ("conversations", "kind"),
    [
        (SAID, pa.list_(LISTED)),
        (SAID, pa.large_list(LISTED)),
        (SAID, pa.list_(pa.struct({"from": pa.large_string(), "value": pa.string(), "weight": pa.float64()}))),
        (OF_OLD, PAIRED),
    ],
)
def test_every_form_of_conversations(tmp_path: Path, conversations: Any, kind: pa.DataType) -> None:
    image = pa.array(["a.png"])
    check(written(tmp_path, conversations=pa.array([conversations], kind), image=image))


def test_the_columns_of_llava_next_data(tmp_path: Path) -> None:
    """As the hub's viewer shows those of lmms-lab/LLaVA-NeXT-Data."""
    turn = {"from": Value("string"), "value": Value("string")}
    features = Features(
        {"id": Value("string"), "conversations": List(turn), "data_source": Value("string"), "image": ImageFeature()}
    )
    rows = [
        {"id": "1", "conversations": SAID, "data_source": "a", "image": {"bytes": red(), "path": "1.png"}},
        {"id": "2", "conversations": [{"from": "human", "value": "hi"}, SAID[1]], "data_source": "b", "image": None},
    ]
    table = datasets.Dataset.from_list(rows, features=features)
    (tmp_path / "data").mkdir()
    table.to_parquet(str(tmp_path / "data" / "train-00000-of-00001.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    for name in ("data", "saved"):
        records = open_records(StageData(str(tmp_path / name), None, "chatml"))
        check(records)
        assert records[1].images == ()
        assert [records.name(row) for row in range(2)] == ["1", "2"]


@pytest.mark.parametrize(
    "conversations",
    [
        Sequence({"from": Value("string"), "value": Value("string")}),
        LargeList({"from": Value("string"), "value": Value("large_string")}),
    ],
)
def test_features_that_the_library_saved(tmp_path: Path, conversations: Any) -> None:
    features = Features({"id": Value("int64"), "conversations": conversations, "images": List(ImageFeature())})
    said = OF_OLD if isinstance(conversations, dict) else SAID
    row = {"id": 7, "conversations": said, "images": [{"bytes": red(), "path": None}]}
    datasets.Dataset.from_list([row], features=features).save_to_disk(str(tmp_path / "saved"))
    records = open_records(StageData(str(tmp_path / "saved"), None, "chatml"))
    check(records)
    assert records.name(0) == "7"


PICTURES = "an Image, {bytes: binary, path: string}, binary, a string with a path, or a list of one of them"
TURNS = "a list of {from: string, value: string}, or {from: list of string, value: list of string}"


@pytest.mark.parametrize(
    ("name", "value", "kind", "given", "allowed"),
    [
        ("image", 3, pa.int64(), "int64", PICTURES),
        ("image", 3.0, pa.float32(), "float32", PICTURES),
        ("image", True, pa.bool_(), "bool", PICTURES),
        ("images", [1], pa.list_(pa.int64()), "list of int64", PICTURES),
        ("image", [[[0]]], pa.list_(pa.list_(pa.list_(pa.uint8()))), "list of list of list of uint8", PICTURES),
        ("image", {"path": "a.png"}, pa.struct({"path": pa.string()}), "{path: string}", PICTURES),
        (
            "image",
            {"bytes": 1, "path": "a"},
            pa.struct({"bytes": pa.int8(), "path": pa.string()}),
            "{bytes: int8, path: string}",
            PICTURES,
        ),
        ("conversations", "what? that", pa.string(), "string", TURNS),
        ("conversations", ["what?"], pa.list_(pa.string()), "list of string", TURNS),
        ("conversations", None, pa.null(), "null", TURNS),
        ("conversations", 7, pa.int64(), "int64", TURNS),
        (
            "conversations",
            [{"from": "human"}],
            pa.list_(pa.struct({"from": pa.string()})),
            "list of {from: string}",
            TURNS,
        ),
        (
            "conversations",
            [{"from": "a", "value": 1}],
            pa.list_(pa.struct({"from": pa.string(), "value": pa.int64()})),
            "list of {from: string, value: int64}",
            TURNS,
        ),
        (
            "conversations",
            {"from": ["a"], "value": [b"b"]},
            pa.struct({"from": pa.list_(pa.string()), "value": pa.list_(pa.binary())}),
            "{from: list of string, value: list of binary}",
            TURNS,
        ),
    ],
)
def test_a_column_of_the_wrong_type_is_one_error(
    tmp_path: Path, name: str, value: Any, kind: pa.DataType, given: str, allowed: str
) -> None:
    with pytest.raises(InputError) as caught:
        written(tmp_path, **{name: pa.array([value], kind)})
    words = f"train.parquet: {name}: this column is of the wrong type (given: '{given}'; allowed: {allowed})"
    assert str(caught.value).endswith(words)


def test_every_wrong_column_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        written(tmp_path, conversations=pa.array(["a"]), image=pa.array([1]), images=pa.array([1]))
    assert [problem.key for problem in caught.value.problems] == ["conversations", "image", "images"]


@pytest.mark.parametrize(
    ("name", "second", "words"),
    [
        ("conversations", [{"from": "human", "value": 7}, {"from": "gpt", "value": 8}], "is of the wrong type"),
        ("image", 5, "is of the wrong type"),
        ("image", red(), r"is of another type than in \S*a.parquet \(given: 'binary'; allowed: string\)"),
    ],
)
def test_files_of_a_folder_must_be_of_one_type(tmp_path: Path, name: str, second: Any, words: str) -> None:
    """The datasets library makes text of numbers where a first file holds text."""
    first = {"conversations": [SAID], "image": ["a.png"]}
    (tmp_path / "data").mkdir()
    for file, columns in (("a", first), ("b", {**first, name: [second]})):
        parquet.write_table(pa.table(columns), tmp_path / f"data/{file}.parquet")
    with pytest.raises(InputError, match=rf"b\.parquet: {name}: this column {words}"):
        open_records(StageData(str(tmp_path / "data"), None, "chatml"))


def test_null_texts_of_a_table_are_broken_samples(tmp_path: Path) -> None:
    said = [[SAID[0], {"from": "gpt", "value": None}], [SAID[0], None], None, SAID]
    parquet.write_table(pa.table({"conversations": pa.array(said, pa.list_(LISTED))}), tmp_path / "a.parquet")
    records = open_records(StageData(str(tmp_path / "a.parquet"), None, "chatml"))
    words = ["says something that is no text", "is no list of turns", "the conversation is empty"]
    for row, expected in enumerate(words):
        with pytest.raises(BrokenSample, match=expected):
            records[row]
    assert records[3].turns


def test_text_of_a_table_that_is_no_utf8_is_a_broken_sample(tmp_path: Path) -> None:
    """Parquet files are written by many programs, and no reader of them looks at the text."""
    torn = pa.array([b"what?", b"\xff\xfe", b"what?", b"that"]).view(pa.string())
    who = pa.array(["human", "gpt"] * 2)
    turns = pa.StructArray.from_arrays([who, torn], names=["from", "value"])
    columns = {
        "conversations": pa.ListArray.from_arrays([0, 2, 4], turns),
        "image": pa.array([b"\xff", b"a"]).view(pa.string()),
    }
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    records = open_records(StageData(str(tmp_path / "a.parquet"), None, "chatml"))
    with pytest.raises(BrokenSample, match="its row cannot be read"):
        records[0]
    assert records[1].images == ("a",)
    assert records.identity()


def read_damaged(folder: Path, count: int) -> None:
    whole = (folder / "train.parquet").read_bytes()
    for number in range(count):
        draw, content = random.Random(number), bytearray(whole)
        if draw.random() < 0.2:
            del content[draw.randrange(len(content)) :]
        for _ in range(draw.choice((1, 1, 3, 8)) if content else 0):
            content[draw.randrange(len(content))] = draw.choice((0, 255, draw.randrange(256)))
        (folder / f"{number}.parquet").write_bytes(bytes(content))
        try:
            records = open_records(StageData(str(folder / f"{number}.parquet"), None, "chatml"))
        except InputError:
            continue
        finally:
            (folder / f"{number}.parquet").unlink()
        assert records.identity()
        for row in range(len(records)):
            assert records.name(row)
            try:
                [records.load(image) for image in records[row].images]
            except BrokenSample:
                continue


def test_a_damaged_parquet_file_is_one_error_that_says_what_its_reader_says(tmp_path: Path) -> None:
    written(tmp_path, image=pa.array([red()]))
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "train.parquet").read_bytes()[:-20])
    with pytest.raises(
        InputError, match=r"torn\.parquet: no training data can be loaded: Parquet magic bytes not found"
    ):
        open_records(StageData(str(tmp_path / "torn.parquet"), None, "chatml"))
    read_damaged(tmp_path, 15)


@pytest.mark.slow
def test_1500_damaged_parquet_files(tmp_path: Path) -> None:
    written(tmp_path, image=pa.array([{"bytes": red(), "path": "a.png"}], STRUCT))
    read_damaged(tmp_path, 1500)
