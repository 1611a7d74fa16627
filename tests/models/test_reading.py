"""Image files of every kind become upright RGB."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from vr_eval.models.reading import upright


def stored(image: Image.Image, kind: str, **how: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return Image.open(buffer)


def test_a_photo_is_turned_as_its_exif_data_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    lying = Image.new("RGB", (40, 20), "white")
    lying.paste("red", (0, 0, 20, 20))  # the left half, which is the upper one of the upright image
    turned = upright(stored(lying, "PNG", exif=exif))
    assert turned.size == (20, 40)
    assert (turned.getpixel((10, 5)), turned.getpixel((10, 35))) == ((255, 0, 0), (255, 255, 255))


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    grey = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for image in (Image.fromarray(grey), stored(Image.fromarray(grey), "PNG"), stored(Image.fromarray(grey), "TIFF")):
        assert [pixel[0] for pixel in np.asarray(upright(image))[0]] == [0, 1, 128, 255]


def test_an_animation_shows_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    animated = stored(frames[0], "GIF", save_all=True, append_images=frames[1:])
    animated.seek(1)
    assert upright(animated).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK", "RGB"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = upright(Image.new("RGB", (6, 4), "white").convert(mode))
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (6, 4), (255, 255, 255))


def test_an_rgb_image_stays_as_it_is() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(upright(image)), np.asarray(image))
