"""Probe files: everything that is wrong is said at once, with its place and the nearest name."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from vr_eval import cli
from vr_eval.config.grid import load_grid
from vr_eval.errors import InputError
from vr_eval.probes.file import ProbePlan, label_of, load_probes, probe_id, same_without_refusion

GRID = """
name: small
backbone: micro
grid: {projector: [avg_pool], ratio: [4], refusion: [none, vision_remember]}
cells: [{projector: mlp}, {projector: mlp, pruning: fastv}]
baseline: {projector: mlp, pruning: none}
"""
GOOD = "kind: probe\nname: where\ngrids: [small.yaml]\n"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ProbePlan]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(GRID)

    def loaded(text: str, *overrides: str) -> ProbePlan:
        (tmp_path / "where.yaml").write_text(textwrap.dedent(text))
        return load_probes("where.yaml", overrides)

    return loaded


def test_the_shipped_file_loads_and_names_shipped_grids() -> None:
    plan = load_probes("probe_tiny_imagenet")
    assert plan.run_dir == Path("runs/probe_tiny_imagenet")
    assert plan.baseline is not None
    assert plan.baseline.projector == "mlp"
    labels = [label_of(cell, plan.cells) for cell in plan.cells]
    assert len(set(labels)) == len(labels) == len({probe_id(cell) for cell in plan.cells})


def test_cells_of_several_grids_are_probed_once(load: Callable[..., ProbePlan], tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(GRID.replace("small", "other").replace("[none, vision_remember]", "[none]"))
    plan = load(GOOD.replace("[small.yaml]", "[small.yaml, other.yaml]"))
    assert [cell.label for cell in plan.cells] == [
        "avg_pool 1/4",
        "avg_pool 1/4 + vision_remember",
        "mlp",
        "mlp + fastv",
    ]
    plain, refused = plan.cells[:2]
    assert same_without_refusion(refused, plan.cells) == plain
    assert same_without_refusion(plain, plan.cells) is None


def test_what_prunes_one_checkpoint_differently_is_probed_by_itself(load: Callable[..., ProbePlan]) -> None:
    mlp, pruned = load(GOOD).cells[2:]
    assert probe_id(mlp) != probe_id(pruned)


def test_set_changes_a_key(load: Callable[..., ProbePlan]) -> None:
    file = load(GOOD, "data=[digits]", "train_per_class=5", "taps=[tower.out, decoder]").file
    assert (file.data, file.train_per_class, file.taps) == (("digits",), 5, ("tower.out", "decoder"))


def test_every_problem_is_reported_at_once_with_its_place(load: Callable[..., ProbePlan]) -> None:
    text = """\
        kind: prob
        grids: [smal.yaml]
        data: [glyfs, digits, digits]
        taps: [decoder.9, towr]
        strengths: [0]
        heldout: 2
        stregths: [1]
        batch_size: many
        """
    with pytest.raises(InputError) as caught:
        load(text)
    message = str(caught.value)
    for part in (
        "where.yaml:1: name: must be given",
        "where.yaml:1: kind: this value does not fit",
        "smal.yaml: there is no such file",
        "where.yaml:3: data: this value does not fit (given: 'glyfs'",
        "did you mean 'glyphs'?",
        "where.yaml:3: data: given twice",
        "where.yaml:5: strengths: this value does not fit",
        "where.yaml:6: heldout: this value does not fit",
        "where.yaml:7: stregths: unknown key",
        "did you mean 'strengths'?",
        "where.yaml:8: batch_size: this value does not fit",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("tap", "close"), [("decoder.9", "decoder"), ("towr.out", "tower.out"), ("projektor", "projector")]
)
def test_a_tap_that_the_backbone_lacks_is_named_with_the_nearest(
    tap: str, close: str, load: Callable[..., ProbePlan]
) -> None:
    with pytest.raises(InputError, match="the backbone micro has no such tap") as caught:
        load(GOOD + f"taps: [tower.4, {tap}]\n")
    assert f"did you mean '{close}" in str(caught.value)
    assert "where.yaml:4: taps" in str(caught.value)


def test_tiny_imagenet_without_a_folder_says_what_to_download(load: Callable[..., ProbePlan]) -> None:
    with pytest.raises(InputError, match=r"(?s)tiny_imagenet: must be given.*tiny-imagenet-200\.zip"):
        load(GOOD + "data: [tiny_imagenet]\n")


def test_a_bad_grid_is_reported_with_its_own_place(load: Callable[..., ProbePlan], tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(GRID.replace("avg_pool]", "avg_pol]"))
    with pytest.raises(InputError, match=r"small\.yaml:4: grid\.projector: unknown projector"):
        load(GOOD)


def test_each_kind_of_file_names_the_command_that_takes_the_other(load: Callable[..., ProbePlan]) -> None:
    load(GOOD)
    with pytest.raises(InputError, match=r"(?s)describes probes, not a grid.*vr-eval probe where\.yaml"):
        load_grid("where.yaml")
    with pytest.raises(InputError, match="this is a grid, not a probe file"):
        load_probes("small.yaml")


def test_a_bad_file_ends_with_exit_code_2_and_creates_nothing(
    load: Callable[..., ProbePlan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(GOOD)
    (tmp_path / "where.yaml").write_text("kind: probe\n")
    before = sorted(tmp_path.iterdir())
    assert cli.main(["probe", "where.yaml"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_without_any_checkpoint_it_says_how_to_make_them(
    load: Callable[..., ProbePlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vr_eval.probes import run

    load(GOOD)
    monkeypatch.setattr(run, "find_checkpoint", lambda cell: None)
    assert cli.main(["probe", "where.yaml"]) == 2
    assert "vr-eval train small.yaml" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_holds_something_else_is_not_written_to(
    load: Callable[..., ProbePlan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(GOOD)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert cli.main(["probe", "where.yaml", "--out", "mine"]) == 2
    assert "holds no probes" in capsys.readouterr().err
