"""The model under PyTorch's FSDP2 on two CPU processes, one of which has text alone: the gradients of one process.

The Trainer's own FSDP needs GPUs (accelerate spreads nothing over CPUs), so the model is sharded as accelerate does
it: layer by layer, then the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from vr_eval.config.grid import load_grid
from vr_eval.models.build import build_lvlm
from vr_eval.training.dialogues import Shown, collate_dialogues, dialogues
from vr_eval.training.trainer import layers_of

GRID = """\
name: sharded
backbone: micro
tasks: [vr_micro_ocr]
cells:
  - {projector: avg_pool, ratio: 4, refusion: vision_remember}
recipe: {batch_size: 2, stage2: {data: data.json}}
"""


@pytest.mark.slow
def test_sharded_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    from tests.llava import image

    image((100, 120)).save(tmp_path / "a.png")
    said = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "a code"}]
    text = [{"from": "human", "value": "and?"}, {"from": "gpt", "value": "yes, yes"}]
    records = [{"id": "a", "image": "a.png", "conversations": said}, {"id": "b", "conversations": text}]
    (tmp_path / "data.json").write_text(json.dumps(records))
    (tmp_path / "sharded.yaml").write_text(GRID)
    environment = {
        **os.environ,
        "VR_EVAL_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "compared" in done.stdout


def worker() -> None:
    """One of two processes: gradients of both shares without sharding, then of its own share with it."""
    distributed.init_process_group("gloo")
    (cell,) = load_grid("sharded.yaml").cells
    model, processor = build_lvlm(cell)
    samples = dialogues(cell, 2, model, processor).dialogues
    token = model.config.image_token_id
    shares = [collate_dialogues([samples[row]], 0, token, Shown.of(model)) for row in range(2)]
    model.train()
    for share in shares:
        (model(**share).loss / 2).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    mesh, names = init_device_mesh("cpu", (2,)), layers_of(model)
    assert "Qwen2DecoderLayer" in names
    for module in list(model.modules()):
        if type(module).__name__ in names:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model(**shares[distributed.get_rank()]).loss.backward()
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert isinstance(parameter.grad, DTensor), name
            torch.testing.assert_close(parameter.grad.full_tensor(), expected[name], atol=1e-5, rtol=1e-3)
            compared += 1
    assert compared == len(expected)
    print(f"{compared} gradients compared")
    distributed.destroy_process_group()


if __name__ == "__main__":
    worker()
