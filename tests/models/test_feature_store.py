"""Vision features on disk: found again by anyone, never wrong, never an error of a run."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import internvl as tiny_internvl
from tests.llava import GRID, NEXT_POINTS, PX, SIZES_OF_SPEC, image, ported
from vr_eval import cache_folder
from vr_eval.cache_folder import UNUSED_SECONDS, CacheFolder
from vr_eval.catalog.backbone import Loading
from vr_eval.catalog.backbones import BACKBONES, MICRO, BackboneSpec
from vr_eval.catalog.recipe import Recipe
from vr_eval.catalog.tiling import AnyRes, InternVLTiles
from vr_eval.config.cell import Cell
from vr_eval.config.vision_features import image_bytes
from vr_eval.methods.levels import CropLevel, Level
from vr_eval.models.build import build_lvlm
from vr_eval.models.feature_store import FeatureStore
from vr_eval.models.features import ImageEncoder, levels_of

GIB = 1024**3
WARNINGS = logging.WARNING


def store(path: Path, limit: int = GIB, *, rolling: bool = False, memory: int = 0) -> FeatureStore:
    return FeatureStore(capacity_bytes=memory, folder=CacheFolder(path, limit, rolling=rolling))


def hidden(seed: int, level: int = 0, size: int = 64) -> Tensor:
    return torch.randn(2, size, 4, generator=torch.Generator().manual_seed(1000 * seed + level))


def name(number: int) -> str:
    return f"{number:064x}"[::-1]


def fill(kept: FeatureStore, numbers: range, source: str = "s") -> None:
    for number in numbers:
        kept.put(source, name(number), {0: hidden(number)})
    kept.flush()


def there(kept: FeatureStore, numbers: range, source: str = "s") -> list[int]:
    return [number for number in numbers if kept.get(source, name(number), [0]) is not None]


def files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.safetensors"))


def test_another_process_finds_what_was_kept_bit_by_bit(tmp_path: Path) -> None:
    first = store(tmp_path)
    given: dict[Level, Tensor] = {3: hidden(1, 3), CropLevel(4, 2, 0, 1): hidden(1, 4), 5: hidden(1, 5).bfloat16()}
    first.put("s", "a", given)
    first.flush()
    found = store(tmp_path).get("s", "a", [5, CropLevel(4, 2, 0, 1), 3])
    assert found is not None
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, torch.float32, torch.float32]
    assert all(
        torch.equal(tensor, given[level]) for tensor, level in zip(found, (5, CropLevel(4, 2, 0, 1), 3), strict=True)
    )
    assert store(tmp_path).get("s", "b", [3]) is None
    assert store(tmp_path).get("other", "a", [3]) is None
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_file_grows_by_the_levels_that_it_lacks(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.put("s", "a", {1: hidden(0, 1), 2: hidden(0, 2)})
    kept.flush()
    assert kept.get("s", "a", [2, 3]) is None
    kept.put("s", "a", {2: hidden(0, 2), 3: hidden(0, 3)})
    kept.flush()
    found = store(tmp_path).get("s", "a", [1, 2, 3])
    assert found is not None
    assert all(torch.equal(tensor, hidden(0, level)) for tensor, level in zip(found, (1, 2, 3), strict=True))
    assert len(files(tmp_path)) == 1


def test_memory_in_front_spares_the_disk(tmp_path: Path) -> None:
    fill(store(tmp_path), range(2))
    kept = store(tmp_path, memory=GIB)
    assert there(kept, range(2)) == [0, 1]
    for file in files(tmp_path):
        file.unlink()
    assert there(kept, range(2)) == [0, 1]
    assert kept.found == 4


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def of_another_image(content: bytes) -> bytes:
    return content.replace(name(0).encode(), name(7).encode())


def reshaped(content: bytes) -> bytes:
    return content.replace(b"[2,64,4]", b"[64,2,4]")


@pytest.mark.parametrize(
    "change", [flipped, of_another_image, reshaped, lambda c: c[:-1], lambda c: c[:40], lambda c: b"", lambda c: b"no"]
)
def test_a_damaged_file_is_encoded_again_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Any
) -> None:
    fill(store(tmp_path), range(2))
    for file in files(tmp_path):
        content = file.read_bytes()
        assert change(content) != content or name(0) not in file.name
        file.write_bytes(change(content))
    kept = store(tmp_path)
    with caplog.at_level(WARNINGS):
        assert 0 not in there(kept, range(2))
    assert len(caplog.records) == 1
    assert "damaged; such images are encoded again" in caplog.text
    fill(kept, range(2))
    assert there(store(tmp_path), range(2)) == [0, 1]


def test_what_is_damaged_after_it_was_read_is_noticed_too(tmp_path: Path) -> None:
    fill(store(tmp_path), range(1))
    kept = store(tmp_path)
    assert there(kept, range(1)) == [0]
    files(tmp_path)[0].write_bytes(flipped(files(tmp_path)[0].read_bytes()))
    assert there(kept, range(1)) == []


def test_a_full_folder_keeps_what_it_has_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = store(tmp_path, 40_000)
    with caplog.at_level(WARNINGS):
        fill(kept, range(40))  # of 2 kB and a header each
    sizes = [file.stat().st_size for file in files(tmp_path)]
    assert 36_000 < sum(sizes) <= 40_000
    assert there(store(tmp_path, 40_000), range(40)) == list(range(len(sizes)))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"{tmp_path} is full (3.73e-05 GiB)"
    ]


def test_a_folder_of_earlier_runs_counts(tmp_path: Path) -> None:
    fill(store(tmp_path, 40_000), range(10))
    fill(store(tmp_path, 40_000), range(10, 40))
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 40_000


def test_it_takes_half_of_what_the_disk_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(path: object) -> Any:
        held = sum(file.stat().st_size for file in files(tmp_path))
        return type("Usage", (), {"free": 40_000 - held})

    monkeypatch.setattr(cache_folder.shutil, "disk_usage", usage)
    kept = store(tmp_path)
    fill(kept, range(40))
    assert 15_000 < sum(file.stat().st_size for file in files(tmp_path)) <= 20_000
    assert kept.folder is not None
    assert kept.folder.limit() == 20_000  # whatever it holds itself


def test_a_tower_that_nobody_uses_any_more_makes_room(tmp_path: Path) -> None:
    fill(store(tmp_path, 40_000), range(40), "old")
    fill(store(tmp_path, 40_000), range(5), "new")
    assert there(store(tmp_path), range(5), "new") == []  # it was used a moment ago
    (old,) = {file.parents[1] for file in files(tmp_path)}
    long_ago = time.time() - UNUSED_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    fill(store(tmp_path, 40_000), range(5), "new")
    assert there(store(tmp_path), range(5), "new") == [0, 1, 2, 3, 4]
    assert there(store(tmp_path), range(40), "old")  # no more of it goes than is needed


def test_in_ranges_the_features_of_earlier_ones_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = store(tmp_path, 40_000, rolling=True)
    with caplog.at_level(WARNINGS):
        for start in range(0, 48, 8):  # a range of 8 takes less than half
            for number in range(start, start + 8):
                fill(kept, range(number, number + 1))
                time.sleep(0.002)  # times of files are of milliseconds
            assert there(kept, range(start, start + 8)) == list(range(start, start + 8))
            assert sum(file.stat().st_size for file in files(tmp_path)) <= 40_000
    assert not caplog.records


def test_in_ranges_what_an_earlier_run_kept_stays_while_it_is_read(tmp_path: Path) -> None:
    fill(store(tmp_path, 40_000), range(12))
    long_ago = time.time() - 100
    for file in files(tmp_path):
        os.utime(file, (long_ago, long_ago))
    kept = store(tmp_path, 40_000, rolling=True)
    assert there(kept, range(4)) == [0, 1, 2, 3]
    fill(kept, range(20, 26))
    assert there(kept, range(4)) == [0, 1, 2, 3]
    assert len(there(kept, range(4, 12))) < 8


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_nothing_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(code, os.strerror(code), str(path))

    kept = store(tmp_path)
    fill(kept, range(1))
    with monkeypatch.context() as patched, caplog.at_level(WARNINGS):
        patched.setattr(Path, "write_bytes", full)
        fill(kept, range(1, 4))
    assert len(caplog.records) == 1
    assert os.strerror(code) in caplog.text
    assert there(kept, range(4)) == [0]
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_a_kill_left_unfinished_goes_in_time(tmp_path: Path) -> None:
    fill(store(tmp_path), range(1))
    for age, stem in ((UNUSED_SECONDS + 60, ".1.old"), (10, ".2.young")):
        rest = files(tmp_path)[0].with_name(f"{stem}.tmp")
        rest.write_bytes(b"half")
        os.utime(rest, (time.time() - age, time.time() - age))
    fill(store(tmp_path), range(1, 2))
    assert [path.name for path in tmp_path.rglob("*.tmp")] == [".2.young.tmp"]


def test_folders_of_others_in_it_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "photos" / "ab" / "holiday.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"x" * 50_000)
    os.utime(tmp_path / "photos", (0, 0))
    kept = store(tmp_path, 40_000, rolling=True)
    fill(kept, range(40))
    assert mine.is_file()
    assert there(kept, range(40))


def work(path: Path, seed: int, limit: int, begun: Any, ends: Any) -> None:
    """Looks images up in an order of its own, again and again; puts down how many it found, and how many were wrong."""
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed)).tolist()
    wrong = found = 0
    begun.release()
    for turn in range(30):
        kept = store(path, limit, rolling=seed % 2 == 1)
        for number in order:
            levels = [(seed + turn) % 3, 3]
            read = kept.get("s", name(number), levels)
            if read is None:
                kept.put("s", name(number), {level: hidden(number, level, 1024) for level in levels})
            else:
                found += 1
                given = [hidden(number, level, 1024) for level in levels]
                wrong += not all(map(torch.equal, read, given))
        kept.flush()
    ends.put((wrong, found))


@pytest.mark.parametrize("limit", [GIB, 1_000_000], ids=["room", "too little room"])
def test_several_processes_and_one_that_is_killed_read_no_wrong_byte(tmp_path: Path, limit: int) -> None:
    processes = multiprocessing.get_context("fork")  # which has torch already
    begun, ends = processes.Semaphore(0), processes.Queue()
    workers = [processes.Process(target=work, args=(tmp_path, seed, limit, begun, ends)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for _ in workers:
        assert begun.acquire(timeout=60)
    time.sleep(0.2)
    workers[0].kill()
    results = [ends.get(timeout=30) for _ in workers[1:]]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL, 0, 0, 0]
    assert [wrong for wrong, _ in results] == [0, 0, 0]
    assert all(found > 0 for _, found in results)
    kept = store(tmp_path, limit)
    for number in range(40):
        for level in range(4):
            read = kept.get("s", name(number), [level])
            assert read is None or torch.equal(read[0], hidden(number, level, 1024))


def tiny_backbone(kind: str, folder: Path) -> BackboneSpec:
    if kind == "micro":
        return MICRO
    if kind == "llava_next":
        points = tuple((y, x) for y, x in NEXT_POINTS)
        preset, source = BACKBONES["llava_next_vicuna_7b"], ported("llava_next", folder)
        return replace(preset, name="tiny", checkpoint=source, **SIZES_OF_SPEC, tiling=AnyRes(points))
    preset = next(spec for spec in BACKBONES.values() if isinstance(spec.tiling, InternVLTiles))
    source, tiling = tiny_internvl.internvl(folder), InternVLTiles.of(PX, tiny_internvl.MOST)
    own = {"own_projector": "pixel_shuffle", "own_ratio": 4, "select_layer": 4}
    return replace(preset, name="tiny", checkpoint=source, **{**SIZES_OF_SPEC, **own}, tiling=tiling)


@pytest.mark.parametrize("kind", ["micro", "llava_next", "internvl"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_image_takes_the_bytes_that_plans_say(tmp_path: Path, kind: str, dtype: str) -> None:
    """The image with most tiles; the header of its file aside."""
    if (kind, dtype) == ("micro", "bfloat16"):
        pytest.skip("its weights are float32")
    spec = tiny_backbone(kind, tmp_path / "hub")
    described = None if kind == "micro" else spec
    cells = [
        Cell(spec.name, *methods, "none", 0, {}, Recipe(), described)
        for methods in (("pixel_shuffle", 4, "none"), ("avg_pool", 4, "vision_remember"))
    ]
    size = (spec.image_px,) * 2 if kind == "micro" else (2 * PX, (2 if kind == "llava_next" else 3) * PX)
    kept = FeatureStore((level for cell in cells for level in levels_of(cell)), folder=CacheFolder(tmp_path / "v", GIB))
    for cell in cells:
        model, processor = build_lvlm(cell, loading=Loading(dtype))
        encoder = ImageEncoder(model.eval(), processor.image_processor, kept)
        stored = encoder([image(size)])
        kept.flush()
        fresh = ImageEncoder(model, processor.image_processor, FeatureStore(capacity_bytes=0))([image(size)])
        assert torch.equal(stored, fresh)
        assert stored.shape[1] == (GRID**2 if kind != "micro" else MICRO.grid**2)
    (file,) = files(tmp_path / "v")
    assert 0 < file.stat().st_size - image_bytes(cells, dtype) < 2_000
    assert (kept.encoded, kept.found) == (1, 1)
