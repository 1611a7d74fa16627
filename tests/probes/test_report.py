"""The page on made-up records: what it shows is what the CSV holds, and hostile text stays text."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from vr_eval.environment import Environment
from vr_eval.errors import InputError
from vr_eval.probes.about import ProbedCell, ProbedData, ProbeRecord
from vr_eval.probes.options import ProbeFile
from vr_eval.probes.records import write_run
from vr_eval.probes.report import build

EVIL = '<script>alert("x")</script>'
TAPS = ("tower.0", "tower.1", "tower.out", "projector", "decoder.0", "decoder.1")
IMAGES = 100


def record(folder: Path, right: dict[str, tuple[int, ...]]) -> Path:
    """A run in which cell `label` reads the first n of 100 images at every tap, with n from `right`."""
    cells = [
        ProbedCell(
            id=f"id{i}", label=label, projector=label, ratio=1, refusion="none", pruning="none", seed=1, tokens=4,
            is_baseline=i == 0, without_refusion=None, taps=TAPS, checkpoint="c", origin="trained",
        )
        for i, label in enumerate(right)
    ]  # fmt: skip
    rows = [
        {
            "data": "digits", "target": "class", "probe": "ridge", "pool": "mean", "cell": cell.id, "tap": tap,
            "strength": 1.0, "heldout": 0.5, "correct": [i < n for i in range(IMAGES)], "control": [False] * IMAGES,
        }
        for cell in cells
        for tap, n in zip(TAPS, right[cell.label], strict=True)
    ]  # fmt: skip
    density = [
        {"cell": cell.id, "layer": layer, "share": [0.2, 0.4], "even": 0.5} for cell in cells for layer in (0, 1)
    ]
    about = ProbeRecord(
        file=ProbeFile(name=EVIL, probes=("ridge",), resamples=200, seed=1),
        source=EVIL, question=EVIL, backbone=EVIL, tower_depth=1, decoder_depth=2,
        data=(ProbedData("digits", EVIL, EVIL, {"class": 10}, 9, IMAGES),), cells=tuple(cells), left_out=(EVIL,),
        failed={EVIL: EVIL}, seconds=1.0,
        environment=Environment("r", "s", EVIL, None, {EVIL: EVIL}, EVIL, EVIL, 1, None),
    )  # fmt: skip
    folder.mkdir()
    write_run(folder, about, rows, density, None)
    return folder


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    page = build(record(tmp_path / "run", {"mlp": (9, 9, 90, 90, 90, 90), EVIL: (9, 9, 90, 60, 60, 45)})).read_text()
    assert "<script" not in page.lower()
    assert "&lt;script&gt;alert" in page


def test_the_losses_on_the_page_are_those_in_the_csv(tmp_path: Path) -> None:
    folder = record(tmp_path / "run", {"mlp": (9, 9, 90, 88, 88, 86), "pool": (9, 9, 90, 60, 50, 45)})
    page = build(folder).read_text()
    with (folder / "digits_what_is_there.csv").open() as file:
        rows = {row["label"]: row for row in csv.DictReader(file)}
    for label, bottleneck, forgetting in (("mlp", -2, -2), ("pool", -30, -15)):
        row = rows[label]
        assert (float(row["bottleneck"]), float(row["forgetting"])) == pytest.approx((bottleneck, forgetting), abs=0.05)
        assert f"bottleneck −{-bottleneck}.0, forgetting −{-forgetting}.0" in page
        assert page.count(f"<td>−{-bottleneck}.0<") + page.count(f"<td>−{-forgetting}.0<") >= 2


def test_the_sentence_names_the_largest_drop_and_no_gain(tmp_path: Path) -> None:
    folder = record(tmp_path / "run", {"mlp": (9, 9, 90, 70, 70, 69), "pool": (9, 9, 90, 60, 70, 80)})
    lead = build(folder).read_text().partition('<p class="lead">')[2].partition("</p>")[0]
    projector, _, decoder = lead.partition("along the decoder")
    assert "the largest drop is that of pool, −30.0 points" in projector
    assert "the largest drop is that of mlp, −1.0 points" in decoder
    gain = record(tmp_path / "gain", {"mlp": (9, 9, 90, 70, 70, 75)})
    assert "the accuracy of none is lower behind it" in build(gain).read_text()


def test_the_page_depends_on_the_records_alone(tmp_path: Path) -> None:
    right = {"mlp": (9, 9, 90, 88, 88, 86), "pool": (9, 9, 90, 60, 50, 45)}
    assert build(record(tmp_path / "a", right)).read_bytes() == build(record(tmp_path / "b", right)).read_bytes()


def test_every_damaged_key_of_what_was_probed_is_named_in_one_error(tmp_path: Path) -> None:
    path = record(tmp_path / "run", {"mlp": (9, 9, 90, 88, 88, 86)}) / "probe.json"
    about = json.loads(path.read_text())
    del about["cells"][0]["taps"], about["tower_depth"]
    about["data"][0]["test"] = "many"
    path.write_text(json.dumps(about))
    with pytest.raises(InputError) as caught:
        build(path.parent)
    assert {problem.key for problem in caught.value.problems} == {"tower_depth", "data[0].test", "cells[0].taps"}


def test_what_older_versions_wrote_is_read(tmp_path: Path) -> None:
    """Committed reports are of before random weights and the image seam."""
    path = record(tmp_path / "run", {"mlp": (9, 9, 90, 88, 88, 86)}) / "probe.json"
    new, about = ProbeRecord.read(path), json.loads(path.read_text())
    del about["random_weights"], about["cells"][0]["image"]
    path.write_text(json.dumps(about))
    assert ProbeRecord.read(path) == new
