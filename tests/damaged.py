"""Image files of every format that Pillow writes, and what is left of them after a fault of a disk or a network."""

from __future__ import annotations

import io
import random
import struct
from functools import cache

import numpy as np
from PIL import Image


def photo() -> Image.Image:
    """64 x 48 pixels with gradients and noise."""
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([x * 4 % 256, y * 5 % 256, (x + y) * 2 % 256], axis=-1).astype(np.uint8)
    pixels[10:20, 10:30] = np.random.default_rng(0).integers(0, 256, (10, 20, 3))
    return Image.fromarray(pixels)


def camera() -> Image.Exif:
    """EXIF data as a camera writes them: lying on its side, with a maker, a time and a place."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    exif[0x8769] = {0x9003: "2020:01:01 00:00:00"}
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return exif


def stored(image: Image.Image, kind: str, **how: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **how)
    return buffer.getvalue()


def odd_exif() -> bytes:
    """A whole JPEG photo whose EXIF data state a width as a fraction, which Pillow cannot write again."""
    width = struct.pack(">HHII", 0x0100, 5, 1, 38) + bytes(4) + struct.pack(">II", 72, 1)
    turned = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    return stored(photo(), "JPEG", exif=b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + turned + width)


@cache
def image_files() -> dict[str, tuple[bytes, ...]]:
    """Whole files by their format."""
    rgb = photo()
    grey = np.asarray(rgb)[..., 0]
    wide, real = Image.fromarray(grey.astype(np.uint16) * 257), Image.fromarray((grey / 255).astype(np.float32))
    palette, ink = rgb.convert("P"), rgb.convert("1")
    turned = Image.Exif()
    turned[0x0112] = 6

    def film(kind: str, **how: object) -> bytes:
        more = [rgb.transpose(Image.Transpose(turn)) for turn in (0, 1)]
        return stored(rgb, kind, save_all=True, append_images=more, **how)

    tiffs = [
        stored(rgb, "TIFF", compression=compression, exif=turned)
        for compression in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg")
    ]
    return {
        "png": (
            stored(rgb, "PNG", exif=camera()),
            stored(wide, "PNG"),
            stored(palette, "PNG", transparency=b"\0" * 200),
            film("PNG"),
        ),
        "jpeg": (
            stored(rgb, "JPEG", exif=camera()),
            stored(rgb, "JPEG", progressive=True, exif=camera()),
            stored(rgb.convert("CMYK"), "JPEG"),
        ),
        "mpo": (film("MPO", exif=camera()),),
        "webp": (
            stored(rgb, "WEBP", exif=camera()),
            stored(rgb, "WEBP", lossless=True),
            film("WEBP", exif=camera()),
        ),
        "gif": (stored(rgb, "GIF"), film("GIF", transparency=0)),
        "bmp": (stored(rgb, "BMP"), stored(palette, "BMP")),
        "tiff": (
            *tiffs,
            stored(real, "TIFF"),
            stored(wide, "TIFF"),
            stored(ink, "TIFF", compression="group4"),
            stored(rgb.convert("LAB"), "TIFF"),
            film("TIFF"),
        ),
        "ppm": (stored(rgb, "PPM"), stored(wide, "PPM"), stored(real, "PPM")),
        "ico": (
            stored(rgb, "ICO", sizes=[(16, 16), (32, 32)]),
            stored(rgb, "ICO", bitmap_format="bmp", sizes=[(16, 16), (32, 32)]),
        ),
        "tga": (stored(rgb, "TGA"), stored(rgb, "TGA", compression="tga_rle"), stored(palette, "TGA")),
        "pcx": (stored(rgb, "PCX"), stored(palette, "PCX")),
        "sgi": (stored(rgb, "SGI"), stored(rgb, "SGI", bpc=2)),
        "jpeg2000": (
            stored(rgb, "JPEG2000"),
            stored(rgb, "JPEG2000", tile_size=(32, 32), irreversible=True, no_jp2=True),
        ),
        "avif": (stored(rgb, "AVIF", exif=camera()), film("AVIF")),
        "icns": (stored(rgb.resize((64, 64)), "ICNS"),),
        "dds": (stored(rgb, "DDS"), stored(rgb, "DDS", pixel_format="DXT1")),
        "qoi": (stored(rgb, "QOI"),),
        "im": (stored(rgb, "IM"),),
        "msp": (stored(ink, "MSP"),),
        "xbm": (stored(ink, "XBM"),),
        "blp": (stored(palette, "BLP"),),
        "spider": (stored(real, "SPIDER"),),
    }


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """`whole`, cut off or with some bytes changed, lost or added, mostly near its beginning."""
    if draw.random() < 0.2:
        return whole[: draw.randrange(len(whole) + 1)]
    left = bytearray(whole)
    reach = 200 if draw.random() < 0.6 else len(left)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        place = draw.randrange(max(min(reach, len(left)), 1))
        kind = draw.randrange(10)
        if kind < 5:
            left[place : place + 1] = bytes([draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))])
        elif kind < 7:
            left[place : place + 4] = draw.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4, b"\xff\xff\xff\x7f"))
        elif kind < 8:
            del left[place : place + draw.randrange(1, 9)]
        else:
            left[place:place] = draw.randbytes(draw.randrange(1, 9))
    return bytes(left)
