"""The data that a probe file names."""

from __future__ import annotations

from vr_eval.probes.data.base import ProbeData
from vr_eval.probes.data.digits import digits
from vr_eval.probes.data.glyphs import glyphs
from vr_eval.probes.data.tiny_imagenet import tiny_imagenet
from vr_eval.probes.options import ProbeFile


def load_data(file: ProbeFile) -> list[ProbeData]:
    """Every data set of `file`, checked. Raises InputError where one is missing or incomplete."""
    counts = file.train_per_class, file.test_per_class
    loaded = []
    for name in file.data:
        if name == "tiny_imagenet":
            loaded.append(tiny_imagenet(file.tiny_imagenet or "", *counts))
        else:
            loaded.append({"glyphs": glyphs, "digits": digits}[name](*counts))
    return loaded
