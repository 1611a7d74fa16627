"""Fetching goes on after what fails, stops where going on is pointless, and says each problem once."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

from tests.hub.content import Repository
from tests.hub.faults import Fault
from tests.hub.server import serving
from vr_eval import cli
from vr_eval.catalog.backbone import Source
from vr_eval.config.grid import Grid, load_grid
from vr_eval.doctor import disk as disks
from vr_eval.doctor import examine as examining
from vr_eval.doctor import fetch as fetching
from vr_eval.doctor import hub as hubs
from vr_eval.doctor.disk import space_needed
from vr_eval.doctor.examine import examine
from vr_eval.doctor.fetch import fetch_grid
from vr_eval.doctor.hub import Hub, chosen, in_time, look
from vr_eval.doctor.needs import Need, _weights_bytes
from vr_eval.errors import InputError
from vr_eval.notation import bytes_text

DATA = Need("dataset", "someone/data", "en", ("mme",))
MODEL = Need("weights", "someone/model", "main", ("llava",))
HERE = Need("dataset", "someone/cached", None, ("gqa",), 12_000_000, (("test", 2374),))
REACHED = Hub("reached", "https://hub", "", True)


@pytest.fixture
def grid() -> Grid:
    return load_grid("projectors")


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[Need]:
    """A hub that has everything, at 1 MB each; what was downloaded, in order."""
    done: list[Need] = []
    for module in (fetching, examining):
        monkeypatch.setattr(module, "look", lambda: REACHED)
        monkeypatch.setattr(module, "needs_of", lambda grid: [DATA, HERE, MODEL])
        monkeypatch.setattr(module, "size_of", lambda need: 1_000_000)
    monkeypatch.setattr(fetching, "_download", done.append)
    return done


def failing(kind: Callable[[], Exception], of: Need, done: list[Need]) -> Callable[[Need], None]:
    def download(need: Need) -> None:
        if need == of:
            raise RuntimeError("while preparing") from kind()
        done.append(need)

    return download


def hub_error(kind: type[Any]) -> Exception:
    response = httpx.Response(403, request=httpx.Request("GET", "https://hub"))
    error: Exception = kind("no", response=response)
    return error


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_missing_is_downloaded_and_what_is_there_is_not(grid: Grid, downloads: list[Need]) -> None:
    said: list[str] = []
    assert fetch_grid(grid, said.append) == 0
    assert downloads == [DATA, MODEL]
    assert said[:2] == ["[1/2] dataset someone/data en (1.0 MB)", "[2/2] weights someone/model (1.0 MB)"]


def test_nothing_missing_asks_no_hub(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "needs_of", lambda grid: [HERE])
    monkeypatch.setattr(fetching, "look", lambda: pytest.fail("no hub is needed"))
    assert fetch_grid(grid, lambda text: None) == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lambda: hub_error(GatedRepoError), "it is gated, and there is no token that may read it"),
        (lambda: hub_error(RevisionNotFoundError), "the hub has no such revision of it"),
        (lambda: ConnectionError("reset by peer"), "cannot be fetched: while preparing"),
    ],
)
def test_one_failure_does_not_stop_the_others(
    grid: Grid, downloads: list[Need], monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception], said: str
) -> None:
    monkeypatch.setattr(fetching, "_download", failing(error, DATA, downloads))
    with pytest.raises(InputError, match=said) as caught:
        fetch_grid(grid, lambda text: None)
    assert downloads == [MODEL]
    assert [problem.file for problem in caught.value.problems] == [DATA.label]


@pytest.mark.parametrize("error", [lambda: hub_error(GatedRepoError), lambda: full()], ids=["gated", "full"])
def test_what_the_user_can_mend_is_exit_code_2_without_a_traceback(
    downloads: list[Need],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Callable[[], Exception],
) -> None:
    monkeypatch.setattr(fetching, "_download", failing(error, DATA, downloads))
    assert cli.main(["fetch", "projectors"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "log in with `hf auth login` or set HF_TOKEN" in said or "set HF_HOME to a folder on a larger disk" in said


def test_files_that_are_there_are_not_downloaded_again(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {"config.json": b"{}", "model-1.safetensors": b"x" * 70_000, "model-2.safetensors": b"y" * 5}
    files["model.safetensors.index.json"] = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    source, model = Source(MODEL.name), Repository("model", MODEL.name)
    held = model.commits[model.commit(files)]
    with serving(model) as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        need = dataclasses.replace(MODEL, bytes=_weights_bytes(source))
        monkeypatch.setattr(fetching, "needs_of", lambda grid: [need])
        hub.faults = [Fault(f"/{held['model-2.safetensors'].sha256}", status=410)]
        with pytest.raises(InputError, match="cannot be fetched"):
            fetch_grid(grid, lambda text: None)
        assert _weights_bytes(source) is None
        said: list[str] = []
        assert fetch_grid(grid, said.append) == 0
        assert said[0] == "[1/1] weights someone/model (70.1 kB)"
        sent = [one.sent for one in hub.asked if one.host == "storage" or "/resolve-cache/" in one.path]
        assert sorted(filter(None, sent)) == sorted(map(len, files.values()))  # each of them once
        assert _weights_bytes(source) == sum(map(len, files.values()))


def test_data_and_models_may_lie_on_different_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    data.mkdir()
    models.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(models))
    monkeypatch.setattr(disks, "data_cache", lambda: data)
    (one,) = space_needed({DATA: 10, MODEL: 100, HERE: None})
    assert (one.folder, one.wanted) == (models, 10 + 100 + 10)
    number = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **how: _Disk(1 if self == data else number(self, **how).st_dev))
    assert [(place.folder, place.wanted) for place in space_needed({DATA: 10, MODEL: 100})] == [
        (models, 110),
        (data, 10),
    ]


class _Disk:
    def __init__(self, number: int) -> None:
        self.st_dev = number


def test_a_disk_that_fills_up_ends_it_with_one_message(
    grid: Grid, downloads: list[Need], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_download", failing(full, DATA, downloads))
    with pytest.raises(InputError, match=r"the disk is full[^$]*goes on where it stopped") as caught:
        fetch_grid(grid, lambda text: None)
    assert (downloads, len(caught.value.problems)) == ([], 1)


def test_a_disk_that_is_too_small_is_said_before_anything_is_downloaded(
    grid: Grid, downloads: list[Need], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: _Usage(2_500_000))
    with pytest.raises(InputError, match=r"the disk has 2\.5 MB left, and this takes about 3\.0 MB"):
        fetch_grid(grid, lambda text: None)
    assert downloads == []


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


@pytest.mark.parametrize("command", ["fetch", "doctor"])
def test_without_network_the_command_says_so_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], downloads: list[Need], command: str
) -> None:
    gone = Hub("unreachable", "https://hub", "[Errno -2] Name or service not known", False)
    for module in (fetching, examining):
        monkeypatch.setattr(module, "look", lambda: gone)
    assert cli.main([command, "projectors"]) == 1
    captured = capsys.readouterr()
    assert "Name or service not known" in captured.out + captured.err
    assert "Traceback" not in captured.err
    if command == "fetch":
        assert captured.err.count("\n") == 1


def test_no_network_on_purpose_is_bad_input(grid: Grid, downloads: list[Need], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(httpx, "head", lambda *args, **kwargs: pytest.fail("it must not be asked"))
    monkeypatch.setattr(fetching, "look", look)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set, so nothing can be fetched"):
        fetch_grid(grid, lambda text: None)


def test_a_hub_that_does_not_answer_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "TIMEOUT_S", 0.2)
    started = time.monotonic()
    assert isinstance(in_time(lambda: time.sleep(30)), TimeoutError)
    assert time.monotonic() - started < 5
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert look().state == "unreachable"


def test_doctor_names_what_is_there_and_never_shows_the_token(
    grid: Grid, downloads: list[Need], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789secret")
    monkeypatch.setattr(examining, "look", lambda: Hub("reached", "https://hub", "", hubs.get_token() is not None))
    text, code = examine(grid)
    assert code == 0
    assert "secret" not in text
    assert "a token is there" in text
    assert "dataset someone/cached: cached, 12.0 MB (test 2,374)" in text
    assert "dataset someone/data en: missing" in text
    assert "to fetch: 2 of 3, 2.0 MB" in text
    assert "lmms-eval   0.7" in text
    monkeypatch.setattr(examining, "needs_of", lambda grid: [HERE])
    assert "projectors can run without network" in examine(grid)[0]


def test_doctor_without_a_grid_names_all_suites_and_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    text, code = examine()
    assert code == 0
    assert "https://huggingface.co not asked: HF_HUB_OFFLINE is set" in text
    assert "dataset BLINK-Benchmark/BLINK (14 parts)" in text
    assert "weights llava-hf/llava-1.5-7b-hf" in text


def test_of_a_model_one_format_of_weights_is_read() -> None:
    both = ["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "pytorch_model.bin.index.json"]
    assert [name for name, _ in chosen([(name, 1) for name in both])] == ["config.json", "model.safetensors"]
    old = ["config.json", "pytorch_model.bin", "flax_model.msgpack"]
    assert [name for name, _ in chosen([(name, 1) for name in old])] == ["config.json", "pytorch_model.bin"]


@pytest.mark.parametrize(
    ("count", "text"), [(None, "size unknown"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_350_000_000, "1.4 GB")]
)
def test_sizes_are_in_the_units_of_disks(count: int | None, text: str) -> None:
    assert bytes_text(count) == text


def test_a_grid_that_is_not_there_is_bad_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["fetch", str(tmp_path / "no.yaml")]) == 2
    assert "there is no such file" in capsys.readouterr().err
