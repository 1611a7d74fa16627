from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from vr_eval import cli
from vr_eval.errors import InputError, Problem, VrEvalError
from vr_eval.processes import ALONE
from vr_eval.runs.executors.options import WorkerOptions
from vr_eval.tracking import Tracking

ROOT = Path(cli.__file__).parents[2]
HEAVY = ["torch", "transformers", "datasets", "pandas", "numpy", "lmms_eval", "pyarrow", "PIL", "matplotlib", "jinja2"]


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs the command; the last line of stderr names the heavy modules that it imported."""
    code = (
        "import sys; from vr_eval.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as error: code = error.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plan", "--help"],
        ["plan", "projectors"],
        ["plan", "ablations/projectors.yaml", "--json", "--set", "recipe.stage2.steps=5"],
        ["list", "methods"],
        ["list", "backbones"],
        ["list", "ablations"],
    ],
)
def test_light_commands_work_anywhere_and_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["[]"]
    assert done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_bad_grid_ends_with_exit_code_2_no_traceback_and_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: a\nbackbone: micro\ngrid: {projector: [avg_pol], ratio: [5]}\n")
    for command in ("plan", "run", "train"):
        done = run(command, "bad.yaml", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "bad.yaml:3: grid.projector: unknown projector (given: 'avg_pol'" in done.stderr
        assert "bad.yaml:3: grid.ratio: a ratio of 1/5 does not divide" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1] == "[]"
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vr_eval", "list", "backbones"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "micro" in done.stdout


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"'{sys.executable}' -m vr_eval list methods | true", cwd=ROOT, shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [[], ["evaluate"], ["plan"], ["plan", "a", "--limit", "x"], ["list", "cells"]])
def test_a_wrong_command_line_ends_with_exit_code_2_and_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: vr-eval" in capsys.readouterr().err


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """`vr-eval list`, in place of a command that does something: tests put an error into it."""
    from vr_eval import listing as module

    return module


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError(Problem("wrong", key="name")), 2, "vr-eval: name: wrong"),
        (VrEvalError("2 cells failed: \x1b[31mmlp"), 1, "vr-eval: 2 cells failed: mlp"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_messages_and_exit_codes(
    error: BaseException,
    code: int,
    text: str,
    listing: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> str:
        raise error

    monkeypatch.setattr(listing, "list_backbones", fail)
    assert cli.main(["list", "backbones"]) == code
    message = capsys.readouterr().err
    assert text in message
    assert "Traceback" not in message


def test_a_bug_keeps_its_traceback(listing: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(listing, "list_backbones", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["list", "backbones"])


def fake(monkeypatch: pytest.MonkeyPatch, module: str, function: str, calls: list[object]) -> None:
    def record(*args: object, **kwargs: object) -> int:
        calls.append((args, kwargs))
        return 1

    stand_in = types.ModuleType(module)
    setattr(stand_in, function, record)
    monkeypatch.setitem(sys.modules, module, stand_in)


def test_run_passes_grid_place_device_and_batch_size_and_returns_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[object] = []
    fake(monkeypatch, "vr_eval.runs.execute", "run_grid", calls)
    arguments = ["run", "projectors", "--out", str(tmp_path), "--device", "cpu", "--batch-size", "5", "--limit", "3"]
    workers = ["--executor", "ray", "--workers", "7", "--shards", "3", "--retries", "0", "--address", "head:6379"]
    assert cli.main([*arguments, "--track", "wandb", "--features", "off", *workers]) == 1
    ((grid,), options) = calls[0]  # type: ignore[misc]
    assert grid.limit == 3  # type: ignore[has-type]
    track = Tracking("wandb", tmp_path.with_name(f"{tmp_path.name}.track"), "projectors")
    asked = WorkerOptions("ray", workers=7, shards=3, retries=0, address="head:6379")
    expected = {"out": tmp_path, "device": "cpu", "batch_size": 5, "track": track, "options": asked, "features": "off"}
    assert options == expected  # type: ignore[has-type]


def test_train_and_report_pass_their_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    fake(monkeypatch, "vr_eval.runs.train", "train_grid", calls)
    fake(monkeypatch, "vr_eval.reporting", "build", calls)
    assert cli.main(["train", "projectors"]) == 1
    assert cli.main(["report", "runs/x"]) == 0
    track = Tracking("none", Path("runs/projectors.track"), "projectors")
    as_many_as_pay = WorkerOptions(workers=None)
    assert calls[0][1] == {"device": "auto", "spread": ALONE, "track": track, "options": as_many_as_pay}  # type: ignore[index]
    assert calls[1] == ((Path("runs/x"),), {})


def test_bench_passes_device_and_repeats_and_prints_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[object] = []
    stand_in = types.ModuleType("vr_eval.runs.bench")
    result = types.SimpleNamespace(to_json=lambda: "{}", to_text=lambda: "table")
    stand_in.bench_grid = lambda grid, *rest: (calls.append((grid.name, *rest[:2])), result)[1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vr_eval.runs.bench", stand_in)
    assert cli.main(["bench", "projectors", "--device", "cpu", "--repeats", "4", "--json"]) == 0
    assert cli.main(["bench", "projectors"]) == 0
    assert capsys.readouterr().out == "{}\ntable\n"
    assert calls == [("projectors", "cpu", 4), ("projectors", "auto", 15)]
    for wrong in ("0", "x", "-1"):
        with pytest.raises(SystemExit):
            cli.main(["bench", "projectors", "--repeats", wrong])
        assert "must be a whole number, at least 1" in capsys.readouterr().err


def test_the_plan_of_the_default_grid_is_the_one_of_the_issue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "projectors", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["run_dir"] == "runs/projectors"
    on_the_grid = ("avg_pool", "pixel_shuffle", "ldpv2", "c_abstractor", "tokenpacker", "sva_connector")
    assert [cell["label"] for cell in plan["cells"]] == [
        *(f"{name} 1/4{refusion}" for name in on_the_grid for refusion in ("", " + vision_remember")),
        "mlp",
        "resampler 1/4",
        "resampler 1/4 + vision_remember [scope=global]",
    ]
    assert [cell["tokens"] for cell in plan["cells"]] == [36] * 12 + [144, 36, 36]
    assert [cell["label"] for cell in plan["cells"] if cell["baseline"]] == ["mlp"]


@pytest.mark.parametrize("path", sorted((ROOT / "ablations").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_grid_loads_and_says_what_it_asks(path: Path) -> None:
    from vr_eval.config.grid import load_grid

    text = path.read_text()
    if "\nkind: probe" not in text:
        grid = load_grid(path)
        assert grid.name == path.stem
        assert grid.baseline is not None
    question = text.partition("\n")[0]  # `vr-eval list ablations` and the report show it
    assert question.startswith("# ")
    assert question.endswith("?")
