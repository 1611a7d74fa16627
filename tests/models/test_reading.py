"""Image files of every kind become upright RGB, and damaged ones one error."""

from __future__ import annotations

import io
import os
import random
import resource
import signal
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageFile

from tests.damaged import damaged, image_files, odd_exif, photo, stored
from vr_eval.errors import InputError
from vr_eval.models.reading import UnreadableImage, read_image, upright
from vr_eval.probes.data.images import decoded
from vr_eval.training.records import Records
from vr_eval.training.typed import BrokenSample


def opened(image: Image.Image, kind: str, **how: object) -> Image.Image:
    return Image.open(io.BytesIO(stored(image, kind, **how)))


def greys(values: list[float], dtype: str) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=dtype))


def shown(image: Image.Image) -> list[int]:
    """The first row of an upright image, whose channels are equal."""
    pixels = np.asarray(upright(image))
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()
    return [int(value) for value in pixels[0, :, 0]]


def test_a_photo_is_turned_as_its_exif_data_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    lying = Image.new("RGB", (40, 20), "white")
    lying.paste("red", (0, 0, 20, 20))  # the left half, which is the upper one of the upright image
    turned = upright(opened(lying, "PNG", exif=exif))
    assert turned.size == (20, 40)
    assert (turned.getpixel((10, 5)), turned.getpixel((10, 35))) == ((255, 0, 0), (255, 255, 255))


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    animated = opened(frames[0], "GIF", save_all=True, append_images=frames[1:])
    animated.seek(1)
    assert upright(animated).getpixel((0, 0)) == (255, 0, 0)


def test_an_rgb_image_stays_as_it_is() -> None:
    assert np.array_equal(np.asarray(upright(photo())), np.asarray(photo()))
    assert np.array_equal(np.asarray(read_image(stored(photo(), "PNG"))), np.asarray(photo()))


@pytest.mark.parametrize(
    "modes", ["L", "P", "1", "L LA", "P PA", "RGBA", "RGBX", "RGBA RGBa", "CMYK", "YCbCr", "HSV", "RGB"]
)
def test_other_modes_become_rgb(modes: str) -> None:
    image = Image.new("RGB", (6, 4), "white")
    for mode in modes.split():
        image = image.convert(mode)
    assert image.mode == modes.split()[-1]
    image = upright(image)
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (6, 4), (255, 255, 255))


def test_a_lab_file_keeps_its_colours() -> None:
    lab = opened(Image.new("RGB", (4, 4), (200, 30, 30)).convert("LAB"), "TIFF")
    assert lab.mode == "LAB"
    assert np.abs(np.asarray(upright(lab)).astype(int) - (200, 30, 30)).max() <= 3


def test_what_is_under_transparent_pixels_is_seen() -> None:
    palette = photo().convert("P")
    seen = np.asarray(palette.convert("RGB"))
    for transparency in (0, bytes(range(256))):
        assert np.array_equal(np.asarray(upright(opened(palette, "PNG", transparency=transparency))), seen)
    clear = photo().convert("RGBA")
    clear.putalpha(0)
    assert np.array_equal(np.asarray(upright(opened(clear, "PNG"))), np.asarray(photo()))


def test_a_jpeg_of_four_inks_is_no_negative() -> None:
    red = opened(Image.new("RGB", (8, 8), (230, 20, 20)).convert("CMYK"), "JPEG")
    assert np.abs(np.asarray(upright(red)).astype(int) - (230, 20, 20)).max() <= 6


# --- greys of more than 8 bits


@pytest.mark.parametrize(
    "image",
    [
        greys([0, 257, 32896, 65535], "u2"),
        opened(greys([0, 257, 32896, 65535], "u2"), "PNG"),
        opened(greys([0, 257, 32896, 65535], "u2"), "TIFF"),
        opened(greys([0, 257, 32896, 65535], ">u2"), "TIFF"),
        opened(greys([0, 257, 32896, 65535], "i4"), "TIFF"),
        opened(greys([0, 257, 32896, 65535], "u2"), "PPM"),
    ],
)
def test_sixteen_bits_are_scaled_not_cut_off(image: Image.Image) -> None:
    assert shown(image) == [0, 1, 128, 255]


def test_a_dark_pgm_of_ten_bits_stays_dark() -> None:
    raw = b"P5 2 1 1023\n" + np.array([0, 3], dtype=">u2").tobytes()
    assert shown(Image.open(io.BytesIO(raw))) == [0, 1]


def test_32_bits_without_any_value_above_255_are_taken_as_they_are() -> None:
    assert shown(opened(greys([0, 7, 255], "i4"), "TIFF")) == [0, 7, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 0.25, 0.5, 1], [0, 64, 128, 255]), ([0, 1.2, 100.4, 255], [0, 1, 100, 255]), ([0, 0], [0, 0])],
)
@pytest.mark.parametrize("kind", ["TIFF", "PPM", ""])
def test_floats_are_scaled_never_black(values: list[float], expected: list[int], kind: str) -> None:
    image = greys(values, "f4")
    assert shown(opened(image, kind) if kind else image) == expected


@pytest.mark.parametrize(
    ("values", "dtype", "limit"),
    [
        ([0.5, float("nan")], "f4", 255),
        ([0.5, float("inf")], "f4", 255),
        ([-0.1, 1], "f4", 255),
        ([0, 3000.0], "f4", 255),
        ([-1, 5], "i4", 65535),
        ([0, 65536], "i4", 65535),
    ],
)
def test_greys_without_a_meaning_are_refused(values: list[float], dtype: str, limit: int) -> None:
    with pytest.raises(UnreadableImage, match=f"an image has greys that are not between 0 and {limit}"):
        read_image(stored(greys(values, dtype), "TIFF"))


@pytest.mark.parametrize("most", [1.0001, 1.2, 1.99])
def test_floats_that_went_a_little_over_one_are_not_made_black(most: float) -> None:
    with pytest.raises(UnreadableImage, match="that may be meant from 0 to 1 or from 0 to 255"):
        read_image(stored(greys([0, 0.5, most], "f4"), "TIFF"))
    assert shown(greys([0, 1, 2], "f4")) == [0, 1, 2]


# --- files that are none


def test_a_path_that_leads_to_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    os.mkfifo(tmp_path / "pipe.png")
    signal.alarm(20)  # to open a pipe waits for its other end
    for name, words in {
        "gone.png": "an image is missing",
        "text.png": "an image cannot be read",
        "pipe.png": "an image is no file",
        "": "an image is no file",
        "a\0b": "an image cannot be read",
        "x" * 5000: "an image cannot be read",
        "text.png/a.png": "an image cannot be read",
    }.items():
        with pytest.raises(UnreadableImage, match=words):
            read_image(tmp_path / name)
    signal.alarm(0)


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [
        (20_000, 20_000, "an image has more than 178,956,970 pixels"),
        (1, 201, "an image is more than 200 times as long as it is wide"),
    ],
)
def test_sizes_that_no_model_takes(width: int, height: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as some libraries set it
    with pytest.raises(UnreadableImage, match=words):
        read_image(f"P6 {width} {height} 255\n".encode())


def test_a_picture_within_an_icon_is_as_large_as_any_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    icon = stored(photo(), "ICO", sizes=[(64, 48)])
    place = icon.index(b"IHDR")
    claim = b"IHDR" + struct.pack(">II", 30_000, 30_000) + icon[place + 12 : place + 17]
    icon = icon[:place] + claim + struct.pack(">I", zlib.crc32(claim)) + icon[place + 21 :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImage, match="an image has more than 178,956,970 pixels"):
        read_image(icon)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
    assert Image.MAX_IMAGE_PIXELS is None


def test_a_truncated_image_is_never_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as importing lmms-eval sets it
    whole = stored(photo(), "JPEG")
    with pytest.raises(UnreadableImage, match="an image cannot be read"):
        read_image(whole[: len(whole) // 2])


def test_no_other_program_is_started_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **named: started.append(given))
    with pytest.raises(UnreadableImage):
        read_image(stored(photo(), "EPS"))
    assert not started


def test_damaged_exif_data_make_an_image_unreadable() -> None:
    Image.open(io.BytesIO(odd_exif())).load()  # its pixels are whole
    with pytest.raises(UnreadableImage, match="an image cannot be read"):
        read_image(odd_exif())


def test_whole_files_of_every_format_are_read() -> None:
    for kind, files in image_files().items():
        for whole in files:
            image = read_image(whole)
            assert image.mode == "RGB", kind
            assert np.asarray(image).std() > 20, kind


READERS: tuple[tuple[Callable[[bytes], Image.Image], type[Exception]], ...] = (
    (read_image, UnreadableImage),
    (Records(None, None, of_json=True).load, BrokenSample),  # type: ignore[arg-type]
    (lambda content: decoded(content, "an image"), InputError),
)
"""Training and probes say in their own ways that an image cannot be read."""


def can_be_read(content: bytes, way: int) -> bool:
    read, refusal = READERS[way]
    try:
        image = read(content)
    except refusal:
        return False
    assert image.mode == "RGB"
    return True


def read_damaged(kind: str, count: int) -> None:
    """Nothing but the one error comes out, in little time and memory."""
    files, readable = image_files()[kind], 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        draw = random.Random(f"{kind}/{number}")
        content = damaged(draw.choice(files), draw)
        started = time.perf_counter()
        readable += can_be_read(content, number % 3)
        assert time.perf_counter() - started < 20, number
    assert readable < count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3_000_000  # KiB


@pytest.mark.parametrize("kind", image_files())
def test_damaged_files(kind: str) -> None:
    read_damaged(kind, 60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", image_files())
def test_1500_damaged_files_of_each_format(kind: str) -> None:
    read_damaged(kind, 1500)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([whole for files in image_files().values() for whole in files]),
    st.lists(st.tuples(st.integers(0, 20_000), st.binary(max_size=8), st.integers(0, 8)), min_size=1, max_size=8),
    st.integers(0, 2),
)
def test_whatever_is_written_over_a_file(whole: bytes, edits: list[tuple[int, bytes, int]], way: int) -> None:
    content = bytearray(whole)
    for place, new, lost in edits:
        start = place % max(len(content), 1)
        content[start : start + lost] = new
    can_be_read(bytes(content), way)
