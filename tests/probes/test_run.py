"""The whole command on two untrained checkpoints: results, resumption, report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from vr_eval import cli
from vr_eval.config.checkpoint_folders import trained_checkpoint
from vr_eval.config.grid import load_grid
from vr_eval.config.identity import checkpoint_id
from vr_eval.errors import InputError
from vr_eval.models.build import build_lvlm
from vr_eval.models.checkpoints import save_checkpoint
from vr_eval.probes.report import build

GRID = """
name: tiny
backbone: micro
seeds: [17]
grid: {projector: [avg_pool], ratio: [4], refusion: [none, vision_remember]}
cells: [{projector: mlp}, {projector: mlp, pruning: fastv}]
baseline: {projector: mlp, pruning: none}
"""
PROBES = """\
# Where is <b>it</b> lost?
kind: probe
name: where
grids: [tiny.yaml]
data: [digits, glyphs]
train_per_class: 2
test_per_class: 1
attention_images: 3
dense_images: 4
dense_test_images: 2
resamples: 100
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished run; one of the three checkpoints is missing."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("VR_EVAL_HOME", str(folder / "home"))
        (folder / "tiny.yaml").write_text(GRID)
        (folder / "where.yaml").write_text(PROBES)
        for cell in load_grid("tiny.yaml").cells:
            if cell.pruning == "none" and cell.refusion == "none":
                model, processor = build_lvlm(cell)
                save_checkpoint(model, processor, trained_checkpoint(cell), {"checkpoint_id": checkpoint_id(cell)})
        assert cli.main(["probe", "where.yaml", "--workers", "1", "--device", "cpu", "--dense"]) == 0
        yield folder


@pytest.fixture(autouse=True)
def _in_world(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("VR_EVAL_HOME", str(world / "home"))


def test_every_cell_with_a_checkpoint_is_probed_at_every_tap(world: Path) -> None:
    about = json.loads((world / "runs/where/probe.json").read_text())
    assert [cell["label"] for cell in about["cells"]] == ["avg_pool 1/4", "mlp", "mlp + fastv"]
    assert about["left_out"] == ["avg_pool 1/4 + vision_remember"]
    taps = pd.read_csv(world / "runs/where/taps.csv")
    assert set(taps["cell"]) == {"avg_pool 1/4", "mlp", "mlp + fastv"}
    pruned = taps[(taps["cell"] == "mlp + fastv") & (taps["probe"] == "ridge") & (taps["data"] == "digits")]
    assert list(pruned["tap"]) == sorted(pruned["tap"], key=list(pruned.sort_values("place")["tap"]).index)
    assert "decoder.1+pruning" in set(pruned["tap"])
    assert set(zip(taps["data"], taps["target"], strict=True)) == {
        ("digits", "class"), ("glyphs", "class"), ("glyphs", "place")
    }  # fmt: skip
    assert (taps["low"] <= taps["accuracy"]).all()
    assert (taps["accuracy"] <= taps["high"]).all()


def test_shared_taps_have_one_result(world: Path) -> None:
    taps = pd.read_csv(world / "runs/where/taps.csv")
    tower = taps[taps["tap"].str.startswith("tower")]
    assert (tower.groupby(["data", "target", "probe", "tap"])["accuracy"].nunique() == 1).all()


def test_the_same_command_computes_no_feature_again_and_gives_the_same_numbers(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vr_eval.probes import extract

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed again")

    before = (world / "runs/where/taps.csv").read_bytes()
    monkeypatch.setattr(extract, "_shard", refuse)
    assert cli.main(["probe", "where.yaml", "--workers", "1", "--device", "cpu", "--set", "batch_size=5"]) == 0
    assert (world / "runs/where/taps.csv").read_bytes() == before


@pytest.mark.slow
def test_workers_read_what_one_reads_and_the_command_computes_no_feature(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vr_eval.probes import extract

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the command itself computed a feature")

    shutil.copytree(world / "home/checkpoints", tmp_path / "checkpoints")
    monkeypatch.setenv("VR_EVAL_HOME", str(tmp_path))  # without features
    monkeypatch.setattr(extract, "_shard", refuse)
    command = ["probe", "where.yaml", "--workers", "2", "--device", "cpu", "--dense", "--out", "two"]
    assert cli.main(command) == 0
    for name in ("probes.parquet", "density.parquet", "dense.parquet"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(world / "two" / name), pd.read_parquet(world / "runs/where" / name)
        )


def test_the_report_is_a_function_of_its_folder(world: Path) -> None:
    page = build(world / "runs/where").read_bytes()
    assert cli.main(["report", "runs/where"]) == 0
    assert (world / "runs/where/report.html").read_bytes() == page


def test_the_page_is_one_escaped_file_without_script_or_network(world: Path) -> None:
    page = (world / "runs/where/report.html").read_text()
    assert "Where is &lt;b&gt;it&lt;/b&gt; lost?" in page
    assert "<b>" not in page
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Reader().feed(page)
    assert not any(tag in ("script", "link", "iframe", "img") for tag, _ in tags)
    assert not any(name in ("src", "style") or name.startswith("on") for _, attrs in tags for name in attrs)
    assert all((attrs.get("href") or "#").startswith("#") for _, attrs in tags)
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for word in ("bottleneck", "forgetting", "Attention density", "Single tokens", "Drop per component"):
        assert word in page


def test_tables_stand_beside_the_page_as_csv(world: Path) -> None:
    drops = pd.read_csv(world / "runs/where/digits_what_is_there.csv").set_index("label")
    taps = pd.read_csv(world / "runs/where/taps.csv").query("data == 'digits' and probe == 'logistic'")
    by_tap = taps[taps["cell"] == "avg_pool 1/4"].set_index("tap")["accuracy"]
    drop = by_tap["projector"] - by_tap["tower.out"]
    assert drops.loc["avg_pool 1/4", "bottleneck"] == pytest.approx(drop, abs=0.06)


def test_a_checkpoint_that_cannot_be_loaded_does_not_stop_the_others(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = next(cell for cell in load_grid("tiny.yaml").cells if cell.label == "avg_pool 1/4")
    path = trained_checkpoint(broken) / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    try:
        arguments = ["probe", "where.yaml", "--out", str(tmp_path / "out"), "--set", "data=[digits]"]
        assert cli.main([*arguments, "--set", "probes=[ridge]"]) == 2
    finally:
        path.write_bytes(content)
    about = json.loads((tmp_path / "out/probe.json").read_text())
    assert list(about["failed"]) == ["avg_pool 1/4"]
    assert [cell["label"] for cell in about["cells"]] == ["mlp", "mlp + fastv"]
    assert "avg_pool 1/4 failed" in (tmp_path / "out/report.html").read_text()
    assert "Traceback" not in capsys.readouterr().err


def test_taps_that_no_model_has_are_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are names of the backbone's taps, but none of the grid's trained cells has refusion."""
    arguments = ["probe", "where.yaml", "--out", str(tmp_path / "out"), "--set", "data=[digits]"]
    assert cli.main([*arguments, "--workers", "1", "--device", "cpu", "--set", "taps=[decoder.1+refusion]"]) == 2
    error = capsys.readouterr().err
    assert "where.yaml: taps: no model of these grids has any of these taps (given: 'decoder.1+refusion')" in error
    assert not (tmp_path / "out/probe.json").exists()


def test_a_folder_without_a_complete_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text("{}")
    with pytest.raises(InputError, match="this key is missing"):
        build(tmp_path)
