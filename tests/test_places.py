"""Users without a home, folders that cannot be written: one error that names the variable to set."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vr_eval import places
from vr_eval.cli import main
from vr_eval.config.checkpoint_folders import find_checkpoint
from vr_eval.config.grid import load_grid
from vr_eval.errors import InputError
from vr_eval.files import write_atomic
from vr_eval.paths import has_home, home

CHECKOUT = Path(__file__).resolve().parents[1]
NOBODY = 54321
"""A user id without a name, as containers have."""
GRID = """\
name: shipped
backbone: micro
tasks: [vr_micro_ocr]
limit: 2
cells: [{projector: mlp}]
"""
TRAINED = (
    GRID.replace("shipped", "trained") + "recipe: {stage1: {steps: 1}, stage2: {steps: 1}, batch_size: 2, images: 4}\n"
)
PROBES = "kind: probe\nname: probes\ngrids: [shipped.yaml]\ndata: [glyphs]\n"
VARIABLES = ("HOME", "VR_EVAL_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE")
Ended = subprocess.CompletedProcess[str]


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*VARIABLES, "XDG_CACHE_HOME", "LMMS_EVAL_DATASETS_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A working directory that every user may enter and write to, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="places-"))
    made.chmod(0o777)
    (made / "locked").mkdir(mode=0o755)
    for name, text in (("shipped", GRID), ("trained", TRAINED), ("probes", PROBES)):
        (made / f"{name}.yaml").write_text(text)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def as_user(folder: Path) -> Callable[..., Ended]:
    """Runs `vr-eval` as another user, who may read everything and write nothing but `folder`."""
    setpriv = shutil.which("setpriv")
    if os.getuid() != 0 or setpriv is None:
        pytest.skip("needs root and setpriv to become a user without a name")
    reading = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    become = (setpriv, "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", *reading)
    if subprocess.run([*become, sys.executable, "-c", "0"], capture_output=True).returncode:
        pytest.skip("this container does not let root become another user that may read")
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}

    def run(*arguments: str, **environment: str) -> Ended:
        return subprocess.run(
            [*become, sys.executable, "-B", "-m", "vr_eval", *arguments],
            env={"PYTHONPATH": str(CHECKOUT)} | kept | {"OMP_NUM_THREADS": "1"} | environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_without_a_home_folder_the_places_are_unknown(homeless: None) -> None:
    assert not has_home()
    for place, variable in ((home, "VR_EVAL_HOME"), (places.hub_cache, "HF_HOME"), (places.data_cache, "HF_HOME")):
        with pytest.raises(InputError, match=f"{variable}: nobody knows .*\n    Set {variable} .or HOME."):
            place()
    with pytest.raises(InputError) as caught:
        places.check_all(places.check_home, places.check_data_cache, lambda: places.check_hub_cache(["a/b"]))
    assert [problem.file for problem in caught.value.problems] == ["VR_EVAL_HOME", "HF_HOME"]


def test_what_travels_with_the_project_is_found_all_the_same(homeless: None) -> None:
    assert all(find_checkpoint(cell) is not None for cell in load_grid("projectors").cells)
    assert find_checkpoint(load_grid("projectors", ["recipe.stage1.steps=3"]).cells[0]) is None


@pytest.mark.parametrize("variable", ["VR_EVAL_HOME", "HF_HOME", "HF_DATASETS_CACHE", "LMMS_EVAL_DATASETS_CACHE"])
def test_the_home_folder_of_nobody_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES[1:]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "~nobody-of-this-name/cache")
    with pytest.raises(InputError, match=f"{variable}: it names the home folder of a user that is not there"):
        (home if variable == "VR_EVAL_HOME" else places.data_cache)()


def test_the_caches_are_where_the_libraries_of_hugging_face_have_them(tmp_path: Path) -> None:
    code = (
        "import importlib, os, datasets, huggingface_hub.constants as hub; from vr_eval import places\n"
        "for given in ({}, {'XDG_CACHE_HOME': '/x'}, {'HF_HOME': '/h'}, {'HF_HOME': '~/h', 'HF_HUB_CACHE': '/hub'},\n"
        "              {'HF_HOME': '/h', 'HF_DATASETS_CACHE': '~/data', 'HUGGINGFACE_HUB_CACHE': '/old'}):\n"
        "    for name in ('XDG_CACHE_HOME', 'HF_HOME', 'HF_HUB_CACHE', 'HF_DATASETS_CACHE', 'HUGGINGFACE_HUB_CACHE'):\n"
        "        os.environ.pop(name, None)\n"
        "    os.environ.update(given)\n"
        "    importlib.reload(hub), importlib.reload(datasets.config)\n"
        "    assert str(places.hub_cache()) == os.path.expanduser(hub.HF_HUB_CACHE), (given, hub.HF_HUB_CACHE)\n"
        "    theirs = os.path.expanduser(datasets.config.HF_DATASETS_CACHE)\n"
        "    assert str(places.data_cache()) == theirs, (given, theirs)\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"HOME": "/me"}
    )
    assert made.returncode == 0, made.stderr


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object) -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", none)
    with pytest.raises(InputError, match="TMPDIR: there is no folder for temporary files\n    Set TMPDIR to a folder"):
        places.check_temporary()


def test_a_place_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VR_EVAL_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(InputError, match=r"file is a file, not a folder\n    Set VR_EVAL_HOME"):
        places.check_home()
    with pytest.raises(InputError, match=r"not a folder\n    Set VR_EVAL_HOME"):
        write_atomic(home() / "checkpoints" / "x", "")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_wherever_it_shows_it_is_no_traceback(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number), str(home() / "features" / "x"))

    monkeypatch.setattr("vr_eval.runs.plan.plan_grid", fail)
    assert main(["plan", "projectors"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"vr-eval: {home() / 'features' / 'x'}: ")
    assert said.endswith("Set VR_EVAL_HOME to a folder that you can write to.\n")


def test_a_bug_is_still_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("vr_eval.runs.plan.plan_grid", fail)
    with pytest.raises(OSError, match="Bad file"):
        main(["plan", "projectors"])


def test_a_tilde_that_the_shell_left_alone_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["plan", "projectors", "--out=~/here"]) == 0
    assert f"run directory {tmp_path / 'here'}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["plan", "projectors", "--out=~nobody-of-this-name/x"])
    assert ended.value.code == 2
    assert "there is no user with this home folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", ["--help", "plan shipped.yaml", "plan trained.yaml", "list methods", "list tasks"]
)
def test_a_user_without_a_name_or_a_home_can_look(as_user: Callable[..., Ended], arguments: str) -> None:
    for environment in ({}, {"HOME": "/root"}, {"HOME": "/nowhere"}):
        made = as_user(*arguments.split(), **environment)
        assert (made.returncode, made.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ("run shipped.yaml", ["HF_HOME"]),
        ("run trained.yaml", ["HF_HOME", "VR_EVAL_HOME"]),
        ("train trained.yaml", ["VR_EVAL_HOME"]),
        ("probe probes.yaml", ["VR_EVAL_HOME"]),
    ],
)
def test_but_what_writes_names_the_variables(
    as_user: Callable[..., Ended], folder: Path, arguments: str, variables: list[str]
) -> None:
    before = set(folder.rglob("*"))
    made = as_user(*arguments.split())
    assert made.returncode == 2
    assert all(f"Set {variable} (or HOME) to a folder" in made.stderr for variable in variables)
    assert made.stderr.count("Set ") == len(variables)
    assert set(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        ("run shipped.yaml", "HF_DATASETS_CACHE"),
        ("run trained.yaml", "VR_EVAL_HOME"),
        ("train trained.yaml", "VR_EVAL_HOME"),
        ("probe probes.yaml", "VR_EVAL_HOME"),
        ("run shipped.yaml", "--out"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named_with_its_variable(
    as_user: Callable[..., Ended], folder: Path, arguments: str, variable: str
) -> None:
    given = {"HOME": str(folder / "home")}
    words = arguments.split()
    if variable == "--out":
        words += ["--out", str(folder / "locked" / "run")]
    else:
        given[variable] = str(folder / "locked" / "below")
    made = as_user(*words, **given)
    assert made.returncode == 2
    assert f"no permission to write to {folder / 'locked'}" in made.stderr
    assert variable in made.stderr.splitlines()[1]
    assert len(made.stderr.splitlines()) == 2


@pytest.mark.slow
def test_with_the_variables_set_such_a_user_can_do_everything(as_user: Callable[..., Ended], folder: Path) -> None:
    given = {"VR_EVAL_HOME": str(folder / "built"), "HF_HOME": str(folder / "caches")}
    for arguments in ("run shipped.yaml", "run trained.yaml", "probe probes.yaml --set train_per_class=2"):
        made = as_user(*arguments.split(), **given)
        assert made.returncode == 0, made.stderr
    assert not (folder / "~").exists()
    reading = as_user("report", "runs/shipped", MPLCONFIGDIR=str(folder / "locked"))
    assert reading.returncode == 0, reading.stderr
