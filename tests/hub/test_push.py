"""A checkpoint goes to the hub with its card, and comes back from there by every way there is."""

from __future__ import annotations

import json
from pathlib import Path

from tests.hub.server import serving
from tests.hub.world import World
from vr_eval.paths import PACKAGE

CHECKPOINT = "f4f24505b224216d"
FOLDER = PACKAGE / "micro" / "checkpoints" / CHECKPOINT
BACK = """
import torch, vr_eval
from transformers import AutoModel, AutoProcessor
here, _ = vr_eval.load_model({id!r})
for model in (vr_eval.load_model("me/pool").model, AutoModel.from_pretrained("me/pool", dtype=torch.float32)):
    theirs = model.state_dict()
    print(type(model).__name__, all(torch.equal(value, theirs[name]) for name, value in here.state_dict().items()))
print(type(AutoProcessor.from_pretrained("me/pool")).__name__)
"""


def test_there_and_back(tmp_path: Path) -> None:
    with serving() as hub:
        world = World(tmp_path, hub, {"HF_HUB_DISABLE_XET": "1"})
        refused = world.run("push", CHECKPOINT, "me/pool", HF_TOKEN="")
        assert refused.code == 2
        assert "the hub does not let you write to it" in refused.err
        code, done = world.run_all(["push", CHECKPOINT, "me/pool"], ["push", CHECKPOINT, "you/pool"], HF_TOKEN="hf_x")
        assert code == [0, 2], done.err
        assert f"{hub.address}/me/pool" in done.out
        assert [one.path for one in done.asked if one.method == "PUT"] == [
            f"/upload/{json.loads((FOLDER / 'checkpoint.json').read_text())['files']['model.safetensors']}"
        ]
        assert all(one.token == "" for one in done.asked if one.host == "storage")
        repository = hub.repositories["models", "me/pool"]
        files = repository.commits[repository.branches["main"]]
        assert {path: files[path].content for path in files if path not in ("README.md", ".gitattributes")} == {
            path.name: path.read_bytes() for path in FOLDER.iterdir()
        }
        assert files["README.md"].content.decode().startswith("---\nlicense: apache-2.0\n")
        back = world.python("-c", BACK.format(id=CHECKPOINT))
        assert back.out.split() == ["LVLM", "True", "LVLM", "True", "LlavaProcessor"], back.err
