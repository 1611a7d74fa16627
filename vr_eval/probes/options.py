"""The keys of a probe file. The check, the defaults and the documentation of a key are one entry here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vr_eval.catalog.fields import described
from vr_eval.config.key_text import REQUIRED, fields_text

DATA = ("glyphs", "digits", "tiny_imagenet")


@dataclass(frozen=True)
class ProbeFile:
    """A probe file as it was written, every value checked by itself."""

    kind: str = described(
        "", "says that this is a probe file", choices=("probe",), example="kind: probe", default_note=REQUIRED
    )
    name: str = described(
        "", "names the run directory, runs/NAME", example="name: probe_tiny_imagenet", default_note=REQUIRED
    )
    grids: tuple[str, ...] = described(
        (), "grid files whose cells are probed", example="grids: [projectors]", default_note=REQUIRED
    )
    data: tuple[str, ...] = described(("glyphs", "digits"), "what is to be told apart", choices=DATA)
    tiny_imagenet: str | None = described(
        None,
        "folder of Tiny-ImageNet (official layout, or saved by datasets), or its name on the hub",
        example="tiny_imagenet: data/tiny-imagenet-200",
        default_note="none; needed for the data tiny_imagenet",
    )
    taps: tuple[str, ...] | None = described(
        None,
        "where features are read: names of taps, or tower, projector, decoder for all of that component",
        example="taps: [tower.out, projector, decoder]",
        default_note="everywhere",
    )
    pools: tuple[str, ...] = described(
        ("mean",),
        "how the vision tokens of an image become one feature vector; attention: of the mean token to all (ours)",
        choices=("mean", "max", "attention"),
    )
    probes: tuple[str, ...] = described(
        ("ridge", "logistic"), "linear classifiers to fit", choices=("ridge", "logistic")
    )
    strengths: tuple[float, ...] = described(
        (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        "regularisation per image on standardised features; chosen on the held-out part",
        above=0,
        maximum=1e6,
    )
    heldout: float = described(
        0.25, "part of the training images that the strength is chosen on", minimum=0.01, maximum=0.9
    )
    train_per_class: int | None = described(
        None,
        "training images of each class",
        minimum=2,
        default_note="20 of glyphs, 60 of digits, all of tiny_imagenet",
    )
    test_per_class: int | None = described(
        None, "test images of each class", minimum=1, default_note="10 of glyphs, 50 of digits, all of tiny_imagenet"
    )
    prompt: str = described("What does the image show?", "the question that stands behind the image")
    attention_images: int = described(
        64, "images on which attention to vision tokens is measured; 0 for none", minimum=0
    )
    dense_images: int = described(160, "training scenes of each suite of the per-token probe (--dense)", minimum=4)
    dense_test_images: int = described(80, "test scenes of each suite of the per-token probe (--dense)", minimum=1)
    resamples: int = described(2000, "bootstrap resamples of the test images", minimum=100, maximum=100_000)
    seed: int = described(
        0, "of the held-out part, the shuffled labels and the bootstrap", minimum=0, maximum=2**32 - 1
    )
    batch_size: int = described(32, "images in one forward pass; changes speed, not results", minimum=1, maximum=65_536)


def probe_keys() -> tuple[str, ...]:
    """Keys of a probe file."""
    return tuple(field.name for field in dataclasses.fields(ProbeFile))


def document_keys(width: int = 100) -> str:
    """Every key of a probe file, what it means, what it takes and its default, as text for a terminal."""
    head = "Keys of a probe file (--set KEY=VALUE sets any of them, e.g. --set train_per_class=10):"
    return "\n".join([head, "", *fields_text(ProbeFile, width)])
