"""Loading, asking and wrapping from Python."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import vr_eval
from tests.internvl import asked as asked_internvl
from tests.internvl import internvl
from tests.llava import asked, image, ported
from vr_eval.adapters.answering import Answerer
from vr_eval.adapters.lmms import VrEval, evaluate
from vr_eval.adapters.lmms_tasks import load_tasks
from vr_eval.errors import InputError
from vr_eval.models.lvlm import LVLM
from vr_eval.paths import PACKAGE

CHECKPOINT = "0d15ec4832988b04"
FOLDER = PACKAGE / "micro" / "checkpoints" / CHECKPOINT
CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor")
LOADED = "\n".join(f"print(type({name}.from_pretrained({str(FOLDER)!r})).__name__)" for name in CLASSES)
HD = (
    "\nfrom transformers.models.auto.processing_auto import processor_class_from_name"
    "\nprint(processor_class_from_name('HDProcessor').__name__)"
)
"""What AutoProcessor asks for a checkpoint that cuts images as TokenPacker-HD does."""
ORDERS = {
    "ours first": f"import vr_eval\nfrom transformers import {', '.join(CLASSES)}",
    "theirs first": f"from transformers import {', '.join(CLASSES)}\nimport vr_eval",
    "ours brings theirs": f"import vr_eval.models.encoding\nfrom transformers import {', '.join(CLASSES)}",
}
LIGHT = "import sys, vr_eval; print(len({'torch', 'transformers', 'pandas', 'yaml'} & set(sys.modules)))"


@pytest.mark.parametrize(
    "order", [order if order == "theirs first" else pytest.param(order, marks=pytest.mark.slow) for order in ORDERS]
)
def test_auto_classes_know_our_checkpoints_in_any_order(order: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{ORDERS[order]}\n{LOADED}{HD}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["LVLMConfig", "LVLM", "LVLM", "LlavaProcessor", "HDProcessor"]


def test_importing_brings_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]


def test_everything_that_is_listed_is_there() -> None:
    modules = [name for name in vr_eval.__all__ if isinstance(getattr(vr_eval, name), ModuleType)]
    assert modules == [], "a room of the same name would hide it"
    assert set(vr_eval.__all__) <= set(dir(vr_eval))
    with pytest.raises(AttributeError, match="no attribute 'evaluate'"):
        vr_eval.evaluate  # noqa: B018


def test_an_answer_is_that_of_an_evaluation() -> None:
    task = load_tasks(["vr_micro_ocr"])["vr_micro_ocr"]
    loaded = vr_eval.load_model(CHECKPOINT)
    evaluated = evaluate(VrEval.around(Answerer(*vr_eval.load_model(FOLDER))), task, 4, "")
    model, processor = loaded
    assert isinstance(model, LVLM)
    assert processor is loaded.processor
    documents = task.test_docs()
    for question in evaluated.questions:
        document = documents[question.doc_id]
        shown = Image.open(io.BytesIO(document["image"]["bytes"]))
        answer = loaded.ask(shown, task.doc_to_text(document), max_new_tokens=32)
        assert answer == question.answer.text


def test_several_images_files_and_what_cannot_be_asked(tmp_path: Path) -> None:
    loaded = vr_eval.load_model(CHECKPOINT, dtype="float32")
    image((40, 50)).save(tmp_path / "page.png")
    shown = [str(tmp_path / "page.png"), image((40, 50))]
    assert loaded.ask(shown, "which is it?", max_new_tokens=2) == loaded.ask(
        shown[::-1], "which is it?", max_new_tokens=2
    )
    assert isinstance(loaded.ask([], "hello", max_new_tokens=2), str)
    with pytest.raises(InputError, match="an image is missing"):
        loaded.ask(tmp_path / "none.png", "what?")
    with pytest.raises(InputError, match="max_new_tokens"):
        loaded.ask([], "what?", max_tokens=3)
    with pytest.raises(InputError, match="did you mean 'dtype'"):
        vr_eval.load_model(CHECKPOINT, dtypes="float16")


@pytest.fixture(params=["llava", "llava_next", "llava_onevision", "internvl"], scope="module")
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tiny random model of transformers' own class, and a prompt with an image for it."""
    folder = tmp_path_factory.mktemp(request.param)
    family = request.param == "internvl"
    source = internvl(folder) if family else ported(request.param, folder)
    model = AutoModelForImageTextToText.from_pretrained(source.name, dtype=torch.float32).eval()
    texts = [asked_internvl(1) if family else asked(1)]
    reader = AutoProcessor.from_pretrained(source.name)
    return model, reader(images=[image((60, 25))], text=texts, return_tensors="pt")


@torch.no_grad()
def test_a_wrapped_model_computes_the_same_with_the_same_weights(theirs: Any) -> None:
    model, inputs = theirs
    wrapped = vr_eval.wrap(model)
    expected = model(**inputs).logits
    torch.testing.assert_close(wrapped(**inputs).logits, expected, atol=1e-4, rtol=0)
    shared = {tensor.data_ptr() for tensor in model.state_dict().values()}
    copied = {name for name, tensor in wrapped.state_dict().items() if tensor.data_ptr() not in shared}
    assert all(name.startswith("projector.") for name in copied)
    assert not copied or model.config.model_type == "internvl"
    torch.testing.assert_close(model(**inputs).logits, expected, atol=0, rtol=0)


@torch.no_grad()
def test_methods_of_a_wrapped_model(theirs: Any) -> None:
    model, inputs = theirs
    plain = model(**inputs).logits[:, -1]
    torch.testing.assert_close(
        vr_eval.wrap(model, "fastv", keep_ratio=1.0)(**inputs).logits[:, -1], plain, atol=1e-4, rtol=0
    )
    assert not torch.allclose(vr_eval.wrap(model, "fastv", keep_ratio=0.1)(**inputs).logits[:, -1], plain, atol=1e-4)
    both = vr_eval.wrap(model, "fastv", "vision_remember", layer=1, layers=(0, 2))
    assert both(**inputs).logits.isfinite().all()
    assert both.config.options["fastv"]["layer"] == 1
    assert both.config.options["vision_remember"]["layers"] == (0, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"refusion": "vision_remember", "image": "downsample"}, "looks again at the full"),
        ({"pruning": "fastvv"}, "did you mean 'fastv'"),
        ({"pruning": "fastv", "keep": 0.5}, "no method here has this option"),
        ({"pruning": "fastv", "layer": 40}, "the decoder has no layer 40"),
        ({"pruning": "fastv", "keep_ratio": 7.0}, "this value does not fit"),
        ({"refusion": "fastv"}, "unknown method"),
    ],
)
def test_what_cannot_be_wrapped(theirs: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        vr_eval.wrap(theirs[0], **given)
