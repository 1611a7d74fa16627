"""The data: generated images, scans, and Tiny-ImageNet in both forms, checked when it is loaded."""

from __future__ import annotations

import codecs
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from tests.damaged import odd_exif
from vr_eval.errors import InputError
from vr_eval.probes.data.digits import digits
from vr_eval.probes.data.glyphs import CHARACTERS, glyphs
from vr_eval.probes.data.tiny_imagenet import Counts, tiny_imagenet

FEW = Counts(classes=3, train_per_class=2, val=3)
WNIDS = ("n01", "n02", "n03")


def test_generated_images_are_the_same_every_time_and_differ_between_splits() -> None:
    one, again = glyphs(3, 2), glyphs(3, 2)
    assert len(CHARACTERS) >= 50
    assert one.train.image(70).tobytes() == again.train.image(70).tobytes()
    assert one.train.image(70).tobytes() != one.test.image(70).tobytes()
    assert one.train.image(70).size == (192, 192)
    assert np.bincount(one.train.labels["class"]).tolist() == [3] * 62
    assert set(one.train.labels["place"]) == set(range(9))


def test_a_larger_set_begins_with_the_smaller_one() -> None:
    small, large = glyphs(2, 1), glyphs(4, 1)
    assert small.train.image(100).tobytes() == large.train.image(100).tobytes()
    assert small.train.key != large.train.key


def test_the_place_says_where_the_character_stands() -> None:
    data = glyphs(2, 1).train
    for index in range(12):
        image = np.asarray(data.image(index), dtype=float)
        change = np.abs(image - np.median(image, axis=(0, 1))).sum(2)
        fields = change.reshape(3, 64, 3, 64).transpose(0, 2, 1, 3).reshape(9, -1)
        strongest = np.sort(fields, axis=1)[:, -40:].sum(1)  # the ink of a character, against dust and blotches
        assert strongest.argmax() == data.labels["place"][index]


def test_digits_are_real_scans_in_two_splits_without_overlap() -> None:
    data = digits(None, None)
    assert (len(data.train), len(data.test)) == (600, 500)
    assert set(np.bincount(data.train.labels["class"])) == {60}
    train = {data.train.image(i).tobytes() for i in range(0, 600, 7)}
    assert not train & {data.test.image(i).tobytes() for i in range(0, 500, 7)}
    with pytest.raises(InputError, match="together at most 174"):
        digits(170, 50)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A copy of the official layout with three classes."""
    root = tmp_path / "tiny"
    root.mkdir()
    (root / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (root / "words.txt").write_text("".join(f"{wnid}\tthing {wnid}\n" for wnid in (*WNIDS, "n99")))
    for number, wnid in enumerate(WNIDS):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (64, 64), (number * 80, i * 100, 0)).save(folder / f"{wnid}_{i}.JPEG")
        boxes = f"{wnid}_0.JPEG\t0\t0\t10\t10\n{wnid}_1.JPEG\t40\t40\t63\t63\n"
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
    (root / "val" / "images").mkdir(parents=True)
    lines = [f"val_{i}.JPEG\t{wnid}\t20\t0\t44\t10" for i, wnid in enumerate(reversed(WNIDS))]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    for i in range(3):
        Image.new("L", (64, 64), 50 * i).save(root / "val" / "images" / f"val_{i}.JPEG")
    return root


def test_the_official_layout_is_read_with_classes_and_places(official: Path) -> None:
    data = tiny_imagenet(str(official), None, None, FEW)
    assert data.train.labels["class"].tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.labels["class"].tolist() == [2, 1, 0]
    assert data.train.labels["place"].tolist() == [0, 8] * 3
    assert data.test.labels["place"].tolist() == [1] * 3
    assert data.targets == {"class": 3, "place": 9}
    assert data.train.image(5).getpixel((0, 0))[0] > 140  # type: ignore[index]
    assert data.test.image(0).mode == "RGB"
    first = tiny_imagenet(str(official), 1, None, FEW)
    assert first.train.labels["class"].tolist() == [0, 1, 2]
    assert first.train.key != data.train.key


def test_another_copy_has_another_key(official: Path) -> None:
    before = tiny_imagenet(str(official), None, None, FEW).train.key
    Image.effect_noise((64, 64), 90).convert("RGB").save(official / "train" / "n01" / "images" / "n01_0.JPEG")
    assert tiny_imagenet(str(official), None, None, FEW).train.key != before


Break = Callable[[Path], object]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: (root / "wnids.txt").unlink(), "wnids.txt is missing"),
        (lambda root: (root / "wnids.txt").write_text("n01\nn02\n"), "must name 3 classes"),
        (lambda root: (root / "words.txt").write_text("n01\tone\n"), "no words for 2 classes, the first is n02"),
        (lambda root: (root / "words.txt").unlink(), "words.txt: cannot be read"),
        (lambda root: shutil.rmtree(root / "train" / "n02"), "1 classes do not have 2 training images: n02 has 0"),
        (lambda root: (root / "train" / "n03" / "images" / "n03_1.JPEG").unlink(), "n03 has 1"),
        (lambda root: (root / "val" / "images" / "val_1.JPEG").unlink(), "3 are listed, 1 missing"),
        (lambda root: (root / "val" / "val_annotations.txt").unlink(), "val_annotations.txt: cannot be read"),
        (
            lambda root: (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn77\t0\t0\t1\t1\n"),
            "val_annotations.txt:1: a line is not",
        ),
        (
            lambda root: (root / "val" / "val_annotations.txt").write_text(
                "".join(f"val_{i}.JPEG\tn01\t0\t0\t1\t1\n" for i in range(3))
            ),
            "2 of 3 classes have no validation images: n02, n03",
        ),
    ],
)
def test_a_partial_copy_is_one_clear_error(harm: Break, message: str, official: Path) -> None:
    harm(official)
    with pytest.raises(InputError, match=message):
        tiny_imagenet(str(official), None, None, FEW)


def test_a_missing_copy_says_what_to_download(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tiny-imagenet-200\.zip"):
        tiny_imagenet(str(tmp_path / "none"), None, None)


def test_an_image_that_cannot_be_read_is_named(official: Path) -> None:
    path = official / "train" / "n02" / "images" / "n02_0.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    data = tiny_imagenet(str(official), None, None, FEW)
    with pytest.raises(InputError, match=r"n02_0\.JPEG: this image cannot be read"):
        data.train.image(2)


def test_byte_order_marks_in_its_lists_are_no_part_of_them(official: Path) -> None:
    plain = tiny_imagenet(str(official), None, None, FEW)
    for path in official.rglob("*.txt"):
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    marked = tiny_imagenet(str(official), None, None, FEW)
    for split, other in ((plain.train, marked.train), (plain.test, marked.test)):
        assert {name: labels.tolist() for name, labels in split.labels.items()} == {
            name: labels.tolist() for name, labels in other.labels.items()
        }
    boxes = official / "train" / "n02" / "n02_boxes.txt"
    boxes.write_bytes(boxes.read_text().encode("utf-16"))
    with pytest.raises(InputError, match=r"n02_boxes\.txt: cannot be read: not UTF-8 text"):
        tiny_imagenet(str(official), None, None, FEW)


@pytest.mark.parametrize(
    ("box", "place"),
    [("0\t0\t10\t10", 0), ("-500\t-20\t-9\t-3", 0), ("90\t90\t900\t900", 8), (f"0\t0\t{'9' * 400}\t1", None)],
)
def test_boxes_that_lie_outside(official: Path, box: str, place: int | None) -> None:
    """They count for the nearest field; without a number that can be one, places are not asked for."""
    path = official / "train" / "n01" / "n01_boxes.txt"
    path.write_text(f"n01_0.JPEG\t{box}\nn01_1.JPEG\t{box}\n")
    labels = tiny_imagenet(str(official), None, None, FEW).train.labels
    assert (labels["place"][:2].tolist() if "place" in labels else None) == (place if place is None else [place] * 2)


@pytest.mark.parametrize("harm", ["turned", "deep"])
def test_its_images_are_read_as_those_of_training(official: Path, harm: str) -> None:
    path = official / "train" / "n02" / "images" / "n02_0.JPEG"
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.new("RGB", (64, 64), "white")
    lying.paste("red", (0, 0, 32, 64))
    deep = Image.fromarray(np.full((64, 64), 32768, dtype=np.uint16))
    if harm == "turned":
        lying.save(path, exif=exif)
    else:
        deep.save(path, "PNG")
    image = tiny_imagenet(str(official), None, None, FEW).train.image(2)
    assert image.mode == "RGB"
    top = np.asarray(image)[:20].mean(axis=(0, 1)).round()
    assert np.abs(top - ((254, 0, 0) if harm == "turned" else (128, 128, 128))).max() <= 1


def rows_of(labels: list[int | None], images: list[object]) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(WNIDS))})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def saved(folder: Path, train: datasets.Dataset) -> str:
    picture = Image.new("RGB", (64, 64))
    datasets.DatasetDict({"train": train, "valid": rows_of([0, 1, 2], [picture] * 3)}).save_to_disk(folder)
    return str(folder)


def test_rows_without_an_image_or_with_a_damaged_one(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 64))
    images = [None, {"bytes": b"GIF89a", "path": "a.gif"}, {"bytes": odd_exif(), "path": None}, *[picture] * 3]
    data = tiny_imagenet(saved(tmp_path / "a", rows_of([0, 1, 2] * 2, images)), None, None, FEW)
    for index, words in enumerate(("there is no image in this row", *["this image cannot be read"] * 2)):
        with pytest.raises(InputError, match=f"a train, image {index}: {words}"):
            data.train.image(index)
    assert data.train.image(3).size == (64, 64)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (
            rows_of([0, 1, 2, 0, None, -1], [None] * 6),
            "2 images of the split train have no label, the first is number 4",
        ),
        (
            rows_of([0, 1, 2] * 2, [None] * 6).remove_columns("image").add_column("image", [1] * 6),
            "the split train holds no images",
        ),
    ],
)
def test_columns_that_hold_no_labels_or_images(tmp_path: Path, train: datasets.Dataset, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny_imagenet(saved(tmp_path / "a", train), None, None, FEW)


def test_the_form_of_the_datasets_library_is_read(tmp_path: Path) -> None:
    def rows(count: int) -> datasets.Dataset:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(WNIDS))})
        images = [Image.new("RGB", (64, 64), (40 * i, 0, 0)) for i in range(count)]
        return datasets.Dataset.from_dict({"image": images, "label": [i % 3 for i in range(count)]}, features=features)

    saved = tmp_path / "saved"
    datasets.DatasetDict({"train": rows(6), "valid": rows(3)}).save_to_disk(saved)
    data = tiny_imagenet(str(saved), None, None, FEW)
    assert data.train.labels["class"].tolist() == [0, 1, 2, 0, 1, 2]
    assert data.test.image(2).getpixel((5, 5)) == (80, 0, 0)
    assert data.targets == {"class": 3}
    with pytest.raises(InputError, match=r"the split train must have 600 images of 200 classes.*given: '6 of 3'"):
        tiny_imagenet(str(saved), None, None, Counts(200, 3, 3))


@pytest.mark.parametrize("name", ["~nobody-of-this-name/tiny", "a" * 3000])
def test_what_can_be_no_path_is_one_error(name: str) -> None:
    with pytest.raises(InputError, match="this cannot be a path"):
        tiny_imagenet(name, 2, 1)
