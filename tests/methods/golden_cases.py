"""Reads reference cases of the format that the goldens' README describes; knows no case by name."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


def draw(name: str, shape: list[int], seed: int) -> np.ndarray:
    """Standard normal float32 array, a function of its name, shape and seed (the goldens' definition)."""
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    return generator.standard_normal(tuple(shape), dtype=np.float32)


def parameter(name: str, shape: list[int], seed: int) -> torch.Tensor:
    """The value of an official parameter (the goldens' definition)."""
    normal = draw(name, shape, seed)
    if len(shape) >= 2:
        return torch.from_numpy(normal / np.float32(np.sqrt(shape[-1])))
    return torch.from_numpy(np.float32(0.1) * normal + np.float32(1 if name.endswith("weight") else 0))


@dataclass(frozen=True)
class Case:
    """One reference case: what its meta file says and what the official code gave."""

    name: str
    meta: dict[str, Any]
    path: Path

    @property
    def arguments(self) -> dict[str, Any]:
        return self.meta.get("args", {})

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """Inputs by the last part of their names."""
        scale = np.float32(self.meta.get("inputs_scale", 1))
        return {
            name.rpartition(".")[2]: torch.from_numpy(draw(name, shape, self.meta["seed"]) * scale)
            for name, shape in self.meta["inputs"].items()
            if not _is_mask(name)
        }

    @property
    def masks(self) -> list[torch.Tensor] | None:
        """Which keys may be seen, one bool tensor per tower; None where all may.

        A meta file says "all true", or lists or maps one entry per tower: values, or a name or a shape of what is
        stored beside the outputs (a shape of nothing stored is drawn, above 0 is True). Inputs named mask count too.
        """
        given = self.meta.get("masks", {n: s for n, s in self.meta.get("inputs", {}).items() if _is_mask(n)})
        if not given or (isinstance(given, str) and given.replace("_", " ").lower() == "all true"):
            return None
        stored = self.outputs
        masks = []
        for name, value in given.items() if isinstance(given, dict) else ((str(v), v) for v in given):
            if name in stored or name.rpartition(".")[2] in stored:
                masks.append(stored.get(name, stored.get(name.rpartition(".")[2])))
            elif isinstance(value, str):
                assert value in ("all true", "all_true"), f"{self.name}: no mask {value!r} is stored"
                return None
            elif all(isinstance(size, int) for size in value):
                masks.append(torch.from_numpy(draw(name, value, self.meta["seed"])) > 0)
            else:
                masks.append(torch.tensor(value))
        return [mask.bool() for mask in masks]

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """The official state_dict."""
        return {name: parameter(name, shape, self.meta["seed"]) for name, shape in self.meta["parameters"].items()}

    @property
    def outputs(self) -> dict[str, torch.Tensor]:
        with np.load(self.path, allow_pickle=False) as stored:
            return {name: torch.from_numpy(stored[name]) for name in stored.files}


def _is_mask(name: str) -> bool:
    return name.rpartition(".")[2].startswith("mask")


def cases(folder: Path, kind: str) -> list[Case]:
    """Every case under `folder` whose official class or description holds `kind`, or whose method it is."""
    found = []
    for meta in sorted(folder.glob("meta_*.json")):
        for name, case in json.loads(meta.read_text()).items():
            stated = (str(case.get("official_class", "")), str(case.get("official", "")))
            if case.get("method") == kind or any(kind in official for official in stated):
                found.append(Case(name, case, folder / f"{name}.npz"))
    return found


def parametrize(metafunc: Any, fixture: str, kind: str) -> None:
    """One test per case of `kind`; a skipped one that says why where there is none."""
    import pytest

    if fixture in metafunc.fixturenames:
        folder = metafunc.config.getoption("--goldens")
        found = cases(folder, kind)
        nothing = pytest.param(None, marks=pytest.mark.skip(reason=f"no {kind} reference outputs in {folder}"))
        metafunc.parametrize(fixture, found or [nothing], ids=[case.name for case in found] or ["absent"])
