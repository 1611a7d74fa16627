"""Small twins of the presets in their places, so that whole commands run on random weights in seconds."""

from __future__ import annotations

import pytest

from scripts.gpu.tiny import twin
from vr_eval.catalog.backbone import BackboneSpec
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.catalog.stated import STATED


def small_preset(name: str, monkeypatch: pytest.MonkeyPatch) -> BackboneSpec:
    """Put the twin of the preset `name` in its place."""
    spec, stated = twin(name)
    monkeypatch.setitem(BACKBONES, name, spec)
    for source, config in stated.items():
        monkeypatch.setitem(STATED, source, config)
    return spec
