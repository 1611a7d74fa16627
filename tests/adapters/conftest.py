"""A random model and its processor, built once; and tasks of its own for a test that wants them."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlavaProcessor

from tests.adapters.world import model, processor, use, write_tasks
from vr_eval.models.lvlm import LVLM


@pytest.fixture(scope="session")
def reader() -> LlavaProcessor:
    return processor(ratio=4)


@pytest.fixture(scope="session")
def lvlm(reader: LlavaProcessor) -> LVLM:
    return model("tokenpacker", 4, "vision_remember", len(reader.tokenizer), reader.image_token_id).to_inference()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of tasks and of `VR_EVAL_HOME`; it is the working directory."""
    write_tasks(tmp_path)
    use(tmp_path, monkeypatch)
    return tmp_path
