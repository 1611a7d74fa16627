"""A checkpoint says what its files hold, and one flipped bit in any of them is noticed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from tests.adapters.world import write_checkpoint
from tests.llava import ported
from vr_eval.catalog import backbones
from vr_eval.catalog.backbone import Source
from vr_eval.catalog.backbones import MICRO, weights_hash
from vr_eval.checksums import FILES, MANIFEST, check_checkpoints, file_hashes, read_manifest
from vr_eval.cli import main
from vr_eval.errors import InputError
from vr_eval.methods.registry import METHODS
from vr_eval.models.checkpoints import load_checkpoint
from vr_eval.models.pretrained import load_pretrained
from vr_eval.paths import PACKAGE

SHIPPED = sorted((PACKAGE / "micro" / "checkpoints").iterdir())
READ = ("model.safetensors", "config.json", "tokenizer.json", "processor_config.json", "chat_template.jinja")


def flip(path: Path, place: int = -1) -> None:
    """Turn one bit of a file around, and leave its time as it was, as a disk does."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert path.stat().st_size == before.st_size


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, "a" * 16, "avg_pool", 4, "none")
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder)
    return str(caught.value)


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_what_travels_with_the_project_states_all_its_files(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert set(READ) <= set(manifest[FILES])
    assert manifest[FILES] == file_hashes(folder)
    assert manifest["identity"]["weights"] == weights_hash(MICRO)


@pytest.mark.parametrize("packages", [["my-method==1.0"], "my-method", {"avg_pool": 1}, None])
def test_damaged_packages_of_a_method_that_is_not_here_are_one_error(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, packages: object
) -> None:
    manifest = read_manifest(checkpoint)
    (checkpoint / MANIFEST).write_text(json.dumps({**manifest, "packages": packages}))
    monkeypatch.delitem(METHODS, "avg_pool")
    assert refused(checkpoint) == f"{checkpoint / MANIFEST}: packages: the manifest is damaged"


def test_a_saved_checkpoint_loads_and_states_all_its_files(checkpoint: Path) -> None:
    stated = read_manifest(checkpoint)[FILES]
    assert set(stated) == {path.name for path in checkpoint.iterdir()} - {MANIFEST}
    (checkpoint / "notes.txt").write_text("a file of the user's own")
    load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", READ)
def test_one_flipped_bit_is_refused_and_the_file_named(checkpoint: Path, name: str) -> None:
    flip(checkpoint / name)
    message = refused(checkpoint)
    assert f"{checkpoint / name}: this file is damaged" in message
    assert message.count("damaged") == 1


@pytest.mark.parametrize("place", [0, 9, 1000, -5000])
def test_wherever_it_is_in_the_weights(checkpoint: Path, place: int) -> None:
    flip(checkpoint / "model.safetensors", place)
    assert f"{checkpoint / 'model.safetensors'}: this file is damaged" in refused(checkpoint)


def test_a_file_that_is_gone_is_refused(checkpoint: Path) -> None:
    (checkpoint / "tokenizer_config.json").unlink()
    assert "tokenizer_config.json: this file cannot be read: No such file" in refused(checkpoint)


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff{}", b'{"files": 3}', b'{"files": {"../x": ""}}', b"null"])
def test_a_manifest_that_is_none_is_refused(checkpoint: Path, content: bytes) -> None:
    (checkpoint / MANIFEST).write_bytes(content)
    assert f"{checkpoint / MANIFEST}: " in refused(checkpoint)


def test_a_checkpoint_from_before_there_were_hashes_still_loads(checkpoint: Path) -> None:
    manifest = read_manifest(checkpoint)
    del manifest[FILES]
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    load_checkpoint(checkpoint)


def test_several_are_looked_at_before_anything_is_done(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    flip(other / "tokenizer.json")
    flip(other / "config.json")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError) as caught:
        check_checkpoints([checkpoint, other, tmp_path / "none", other])
    assert [str(problem.file) for problem in caught.value.problems] == [
        *(str(other / name) for name in ("config.json", "tokenizer.json")),
        str(tmp_path / "none"),
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("decoder/model.safetensors", "this file is damaged"),
        ("tokenizer/chat_template.jinja", "this file is damaged"),
        ("tower/config.json", "cannot be read: No such file"),
        ("tower/new.json", "none of the embedded backbone's weights"),
    ],
)
def test_damaged_weights_of_the_embedded_backbone_train_nothing_anew(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert MICRO.weights is not None
    shutil.copytree(MICRO.weights, tmp_path / "weights")
    shutil.copy(MICRO.weights.with_suffix(".json"), tmp_path)
    spec = dataclasses.replace(MICRO, weights=tmp_path / "weights")
    assert weights_hash(spec) == weights_hash(MICRO)
    path = tmp_path / "weights" / name
    if "No such" in words:
        path.unlink()
    elif path.is_file():
        flip(path)
    else:
        path.write_text("{}")
    monkeypatch.setitem(backbones.BACKBONES, "micro", spec)
    assert main(["plan", "projectors"]) == 2
    message = capsys.readouterr().err
    assert f"{path}: " in message
    assert words in message


def in_cache(folder: Path, cache: Path, name: str, commit: str) -> Path:
    """The files of `folder` in a cache of the hub, in the layout and under the names that `huggingface_hub` gives."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for path in (snapshot, repository / "blobs", repository / "refs"):
        path.mkdir(parents=True)
    for path in folder.iterdir():
        content = path.read_bytes()
        large = path.suffix == ".safetensors" or len(content) > 10_000_000
        named = hashlib.sha256(content) if large else hashlib.sha1(b"blob %d\0" % len(content) + content)
        (repository / "blobs" / named.hexdigest()).write_bytes(content)
        (snapshot / path.name).symlink_to(f"../../blobs/{named.hexdigest()}")
    (repository / "refs" / "main").write_text(commit)
    return snapshot


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of `someone/llava` in a cache of its own."""
    ported("llava", tmp_path / "made")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return in_cache(tmp_path / "made", tmp_path / "cache", "someone/llava", "c" * 40)


SOURCE = Source("someone/llava")


def test_a_published_checkpoint_in_the_cache_loads(published: Path) -> None:
    assert Path(snapshot_download(SOURCE.name, local_files_only=True)) == published
    load_pretrained(SOURCE)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json"])
def test_one_flipped_bit_in_the_cache_is_refused(published: Path, name: str) -> None:
    blob = (published / name).resolve()
    flip(blob, len(blob.read_bytes()) // 2)
    with pytest.raises(InputError) as caught:
        load_pretrained(SOURCE)
    message = str(caught.value)
    assert f"{published / name}: this file is damaged" in message
    assert f"Delete {blob}" in message


def test_a_snapshot_that_is_named_by_its_folder_is_checked_too(published: Path) -> None:
    flip((published / "model.safetensors").resolve())
    with pytest.raises(InputError, match="this file is damaged"):
        load_pretrained(Source(str(published)))


def test_other_files_of_the_repository_are_nobodys_business(published: Path) -> None:
    blob = published.parents[1] / "blobs" / ("0" * 64)
    blob.write_bytes(b"weights of another library")
    (published / "flax_model.msgpack").symlink_to(blob)
    load_pretrained(SOURCE)
