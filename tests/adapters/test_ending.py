"""lmms-eval's own command ends with 0 whatever happens; with our model it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlavaProcessor

from tests.adapters.test_lmms import run
from tests.adapters.world import TASKS, write_checkpoint
from vr_eval.adapters import lmms
from vr_eval.adapters.answering import Answerer, CellError
from vr_eval.adapters.lmms_tasks import load_tasks
from vr_eval.models.lvlm import LVLM

PARALLEL = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    write_checkpoint(folder, "a" * 16, "avg_pool", 4, "none")
    return folder


def damage(checkpoint: Path) -> Path:
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    return weights


def ended(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, list[str]]:
    with pytest.raises(SystemExit) as caught:
        lmms.VrEval.create_from_arg_string(arguments, {"batch_size": 4, "device": "cpu"})
    return caught.value.code, capsys.readouterr().err.splitlines()


def test_a_checkpoint_that_cannot_be_loaded_ends_with_2_and_our_message(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = damage(checkpoint)
    code, said = ended(f"pretrained={checkpoint}", capsys)
    assert code == 2
    assert said[0].startswith(f"vr-eval: {weights}: this file is damaged")
    assert len(said) == 2  # what is wrong, and what to do
    code, said = ended(f"pretrained={tmp_path / 'nowhere'}", capsys)
    assert code == 2
    assert "there is no such folder" in said[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("pretraned=x", "pretraned: unknown argument (allowed: pretrained, cell"),
        ("pretraned=x", "did you mean 'pretrained'?"),
        ("cell=x", "pretrained: must be given"),
        ("pretrained=x,dtype=float33", "dtype: this value does not fit"),
        ("pretrained=x,temprature=1", "did you mean 'temperature'?"),
        ("pretrained=x,top_k=-1", "top_k: this value does not fit"),
        ("pretrained=x,num_beams=2,temperature=0.5", "num_beams: a beam search draws nothing"),
    ],
)
def test_arguments_that_are_none_do_so_too(
    arguments: str, words: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ended(arguments.replace("pretrained=x", f"pretrained={checkpoint}"), capsys)
    assert code == 2
    assert words in "\n".join(said)
    assert "Traceback" not in "\n".join(said)


def test_when_every_question_fails_the_command_fails(
    root: Path,
    lvlm: LVLM,
    reader: LlavaProcessor,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def bug(self: Answerer, *arguments: object) -> None:
        raise IndexError("out of range")

    monkeypatch.setattr(Answerer, "_generate_at_once", bug)
    with pytest.raises(CellError):  # in a run of our own, where it is one cell of many
        run(lvlm, reader, TASKS[0])
    made = lmms.VrEval.create_from_arg_string(f"pretrained={checkpoint}", {"device": "cpu"})
    with pytest.raises(SystemExit) as caught:
        lmms.evaluate(made, load_tasks([TASKS[0]])[TASKS[0]], None, "")
    assert caught.value.code == 1
    assert "vr-eval: all of the first 12 questions failed: IndexError: out of range" in capsys.readouterr().err


def command(root: Path, checkpoint: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, *launcher, "-m", "lmms_eval", "--model", "vr_eval"),
            *("--model_args", f"pretrained={checkpoint}", "--tasks", TASKS[0], "--limit", "4"),
            *("--include_path", str(root / "tasks"), "--batch_size", "4", "--device", "cpu"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_the_command_itself_ends_with_2(root: Path, checkpoint: Path) -> None:
    weights = damage(checkpoint)
    made = command(root, checkpoint)
    assert made.returncode == 2, made.stderr[-2000:]
    assert f"vr-eval: {weights}: this file is damaged" in made.stderr
    assert "Traceback" not in made.stderr


@pytest.mark.slow
def test_several_processes_do_not_end_well_either(root: Path, checkpoint: Path) -> None:
    assert command(root, checkpoint, *PARALLEL).returncode == 0
    weights = damage(checkpoint)
    made = command(root, checkpoint, *PARALLEL)
    assert made.returncode != 0
    assert f"vr-eval: {weights}: this file is damaged" in made.stderr
