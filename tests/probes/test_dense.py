"""Per-token probes on cases with known answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from vr_eval.micro.data import GLYPHS
from vr_eval.probes import dense
from vr_eval.probes.dense import can_be_dense, dense_probe, under
from vr_eval.probes.records import ProbeRun
from vr_eval.probes.summary import Dense
from vr_eval.testing.tiny import tiny_lvlm

Known = Callable[[Tensor], dict[str, tuple[Tensor, Tensor | None]]]


def test_the_glyphs_under_a_token_are_those_of_its_window() -> None:
    grid = torch.arange(144).view(1, 12, 12)
    found = under(grid, 6)
    assert found.shape == (1, 36, 4)
    assert found[0, 0].tolist() == [0, 1, 12, 13]
    assert found[0, 7].tolist() == [26, 27, 38, 39]
    assert under(grid, 12)[0, :, 0].tolist() == list(range(144))


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[[Known], dict[str, dense.DenseResult]]:
    """Runs the probe on tokens that are made from the scenes' own labels."""

    def probed(known: Known) -> dict[str, dense.DenseResult]:
        def one_pass(subject: object, scenes: list[dense.Scene]) -> dense.Batch:
            glyphs = torch.stack([torch.from_numpy(one.glyphs.astype("int64")) for one in scenes])
            found = {}
            for tap, (tokens, kept) in known(glyphs).items():
                labels = under(glyphs, 12 if tokens.shape[-1] == len(GLYPHS) or kept is not None else 6)
                places = torch.arange(labels.shape[1]).expand(len(scenes), -1) if kept is None else kept
                found[tap] = tokens, labels, places
            return found

        monkeypatch.setattr(dense, "_pass", one_pass)
        return dense_probe(None, (12, 6), [1e-4, 1.0], 5)  # type: ignore[arg-type]

    return probed


def one_hot(glyphs: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(glyphs.flatten(1), len(GLYPHS)).float()


def test_tokens_that_name_their_glyph_are_read_and_noise_is_not(
    probe: Callable[[Known], dict[str, dense.DenseResult]],
) -> None:
    generator = torch.Generator().manual_seed(0)
    known: Known = lambda glyphs: {  # noqa: E731
        "tower.out": (one_hot(glyphs), None),
        "projector": (torch.randn(len(glyphs), 144, len(GLYPHS), generator=generator), None),
    }
    found = probe(known)
    assert (found["tower.out"].correct == found["tower.out"].total).all()
    assert found["tower.out"].total.sum() > 100
    assert found["projector"].correct.sum() < 0.15 * found["projector"].total.sum()


def test_a_compressed_token_is_asked_for_every_place_of_its_window(
    probe: Callable[[Known], dict[str, dense.DenseResult]],
) -> None:
    def known(glyphs: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
        windows = torch.nn.functional.one_hot(under(glyphs, 6), len(GLYPHS)).float()
        blurred = windows.mean(2)
        return {"projector": (windows.flatten(2), None), "decoder.0": (torch.cat([blurred, blurred], -1), None)}

    found = probe(known)
    # Of few scenes, a glyph may never stand in some place of the window.
    assert found["projector"].correct.sum() > 0.97 * found["projector"].total.sum()
    # A mean over the window does not say which glyph stands where.
    assert found["decoder.0"].correct.sum() < 0.9 * found["decoder.0"].total.sum()


def test_glyphs_under_dropped_tokens_count_as_not_read(
    probe: Callable[[Known], dict[str, dense.DenseResult]],
) -> None:
    def known(glyphs: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
        upper = torch.arange(72).expand(len(glyphs), -1)
        return {"tower.out": (one_hot(glyphs), None), "decoder.1+pruning": (one_hot(glyphs)[:, :72], upper)}

    found = probe(known)
    pruned = found["decoder.1+pruning"]
    assert (pruned.total == found["tower.out"].total).all()
    assert 0 < pruned.correct.sum() < pruned.total.sum()


def test_only_tokens_that_stand_over_the_patches_can_be_asked() -> None:
    assert can_be_dense(tiny_lvlm("avg_pool", 4))
    assert not can_be_dense(tiny_lvlm("resampler", 4))


def test_the_interval_is_of_the_share_and_not_of_how_many_glyphs_a_scene_holds(tmp_path: Path) -> None:
    total = np.array([10, 20, 40, 80] * 10)
    rng = np.random.default_rng(0)
    rows = [("a", total // 2), ("b", rng.binomial(total, 0.8))]
    frame = pd.DataFrame([{"cell": "m", "tap": tap, "correct": c.tolist(), "total": total.tolist()} for tap, c in rows])
    about: Any = SimpleNamespace(file=SimpleNamespace(resamples=1000, seed=0))
    dense_run = Dense(ProbeRun(tmp_path, about, frame, frame, frame))
    half, most = dense_run.accuracy("m", "a"), dense_run.accuracy("m", "b")
    assert half.value == pytest.approx(50)
    share = rows[1][1].sum() / total.sum()
    error = 196 * (share * (1 - share) / total.sum()) ** 0.5  # binomial, in points
    assert most.value == pytest.approx(100 * share)
    assert most.high - most.low == pytest.approx(2 * error, rel=0.4)
    assert dense_run.change("m", "b", "a").low > 20
    assert not dense_run.change("m", "b", "c").known
