"""Which samples and images a report keeps: bounded, the interesting ones first, the same every time."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tests.report.fixture_run import CELLS, make_records
from vr_eval.reporting import choose_samples, has_images, save_images
from vr_eval.reporting.images import (
    LARGEST_PNG_BYTES,
    LONGEST_SIDE_PX,
    MOST_IMAGES,
    PNG,
    Album,
    image_path,
    kept_images,
)
from vr_eval.reporting.notation import visible
from vr_eval.reporting.samples import describe_choice, samples_per_task


def png(size: int, colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_task_gives_so_many_samples_and_none_twice(records: pd.DataFrame) -> None:
    chosen = choose_samples(records, 20)
    assert len(chosen) == len(set(chosen)) == 80
    assert {task for task, _ in chosen} == set(records["task"])


def test_questions_on_which_cells_disagree_come_first_and_failures_are_among_them(records: pd.DataFrame) -> None:
    ocr = describe_choice(records, choose_samples(records))[0]
    assert (ocr.shown, ocr.asked) == (48, 120)
    assert ocr.disagree >= 36
    assert ocr.failed == 3


def test_the_choice_depends_neither_on_the_order_of_records_nor_on_missing_texts(records: pd.DataFrame) -> None:
    shuffled = records.sample(frac=1, random_state=0)
    shuffled["failure"] = shuffled["failure"].replace("", None)
    assert sorted(choose_samples(shuffled)) == sorted(choose_samples(records))


def test_fewer_questions_than_wanted_are_all_shown(records: pd.DataFrame) -> None:
    few = records[records.doc_id < 5]
    assert len(choose_samples(few)) == 20
    assert choose_samples(few[:0]) == []


def test_many_cells_mean_fewer_samples(records: pd.DataFrame) -> None:
    assert samples_per_task(records) == 48
    many = pd.concat([records.assign(cell_id=records.cell_id + str(copy)) for copy in range(20)])
    assert samples_per_task(many) == 20_000 // (140 * 4)


def test_many_tasks_mean_fewer_samples_so_that_their_images_fit(records: pd.DataFrame) -> None:
    several = pd.concat([records.assign(task=records.task + str(copy)) for copy in range(6)])
    assert samples_per_task(several) == 20
    assert len(choose_samples(several)) == 480


def test_images_are_shrunk_and_kept_where_the_report_looks(tmp_path: Path) -> None:
    save_images(tmp_path, "task", "a", [Image.new("RGBA", (2000, 500), "red")])
    (content,) = kept_images(tmp_path)("task", "a")
    assert Image.open(io.BytesIO(content)).size == (LONGEST_SIDE_PX, 192)
    assert kept_images(tmp_path)("task", "b") == []
    assert (has_images(tmp_path, "task", "a"), has_images(tmp_path, "task", "b")) == (True, False)


def test_a_photograph_is_kept_small(tmp_path: Path) -> None:
    light = np.add.outer(np.linspace(40, 120, 1200), np.linspace(0, 90, 1600))[..., None]
    photograph = Image.fromarray((light + np.random.default_rng(0).normal(0, 8, (1200, 1600, 3))).astype(np.uint8))
    save_images(tmp_path, "task", "a", [photograph])
    (content,) = kept_images(tmp_path)("task", "a")
    assert image_path(tmp_path, "task", "a", suffix=".webp").is_file()
    assert len(content) < LARGEST_PNG_BYTES
    assert Image.open(io.BytesIO(content)).size == (LONGEST_SIDE_PX, 576)
    key = Album(kept_images(tmp_path)).add("task", "a")[0][0]
    album = Album(kept_images(tmp_path))
    album.add("task", "a")
    assert album.uris[key].startswith("data:image/webp;base64,")


def test_the_images_of_a_sample_keep_their_order(tmp_path: Path) -> None:
    shades = [Image.new("RGB", (4, 4), (10 * number, 0, 0)) for number in range(MOST_IMAGES + 3)]
    save_images(tmp_path, "task", "a", shades[:3])
    save_images(tmp_path, "task", "b", shades)
    read = kept_images(tmp_path)
    for name, expected in (("a", 3), ("b", MOST_IMAGES)):
        found = [Image.open(io.BytesIO(content)).getpixel((0, 0)) for content in read("task", name)]
        assert found == [(10 * number, 0, 0) for number in range(expected)]
    keys, missing = Album(read).add("task", "a")
    assert (len(keys), missing) == (3, "")
    image_path(tmp_path, "task", "a").unlink()  # the first one is written last
    assert not has_images(tmp_path, "task", "a")


def test_no_name_leads_out_of_the_folder_and_none_collide(tmp_path: Path) -> None:
    names = ["../../etc/passwd", "a/b", "", ".", "..", "x" * 300, "a\0b", "ok-1.2"]
    paths = {image_path(tmp_path, "../task", name) for name in names}
    assert len(paths) == len(names)
    further = {image_path(tmp_path, "../task", name, 1) for name in [*names, "1.png", "a.more"]}
    assert len(further | paths) == len(further) + len(paths)
    assert all(path.parent.parent == tmp_path / "images" and path.name.isascii() for path in paths)
    assert image_path(tmp_path, "t", "ok-1.2") == tmp_path / "images" / "t" / "ok-1.2.png"


def test_an_image_is_embedded_once_within_the_budget_and_only_if_it_is_one() -> None:
    red, blue = png(8, "red"), png(8, "blue")
    images = {"a": [red], "b": [red], "c": [red, blue], "d": [b"GIF89a"], "e": []}
    album = Album(lambda task, cluster: images[cluster], budget_bytes=len(red) + 1)
    added = [album.add("task", cluster) for cluster in "abcde"]
    key = added[0][0][0]
    assert added == [
        ([key], ""),
        ([key], ""),
        ([key], "The image is too large for this page."),
        ([], "The kept image is broken."),
        ([], "The run does not keep this image."),
    ]
    assert len(album.uris) == 1
    assert red.startswith(PNG)


def test_foreign_text_is_shown_with_its_invisible_parts_written_out_and_cut() -> None:
    assert visible("a\x00b\x1b[0m\u202e\ufeff\nc\td") == "a⟨NUL⟩b⟨ESC⟩[0m⟨U+202E⟩⟨U+FEFF⟩\nc\td"
    assert visible("x" * 1000, 10) == "x" * 10 + " … [cut: 1,000 characters in all]"
    assert visible(None) == "None"


def test_one_cell_alone_has_samples_too() -> None:
    assert len(choose_samples(make_records(CELLS[-1:], per_task=8))) == 32
