"""LLaVA checkpoints in both layouts give transformers' own logits, for any image size and in any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from tests.llava import KINDS, SIZES, asked, image, original, ported
from vr_eval.catalog.backbone import Loading
from vr_eval.models.lvlm import LVLM
from vr_eval.models.pretrained import load_pretrained


@pytest.fixture(params=KINDS, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LVLM, Any, Any]:
    """Transformers' model, ours, their processor and ours."""
    folder = tmp_path_factory.mktemp(request.param)
    source = ported(request.param, folder)
    theirs = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    ours, processor = load_pretrained(source)
    return theirs, ours, AutoProcessor.from_pretrained(folder), processor


def logits(model: PreTrainedModel, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits[inputs["attention_mask"].bool()]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_one_image_of_any_size(pair: Any, size: tuple[int, int]) -> None:
    theirs, ours, reader, processor = pair
    expected = reader(images=[image(size)], text=[asked(1)], return_tensors="pt")
    given = processor(images=[image(size)], text=[asked(1)], return_tensors="pt")
    assert all(torch.equal(given[name], expected[name]) for name in expected)
    torch.testing.assert_close(logits(ours, given), logits(theirs, expected), atol=1e-4, rtol=0)


def test_a_batch_of_all_sizes(pair: Any) -> None:
    theirs, ours, _, processor = pair
    images = [image(size, seed) for seed, size in enumerate(SIZES)]
    texts = [asked(1, "what" * seed) for seed in range(len(SIZES))]
    inputs = processor(images=images, text=texts, return_tensors="pt", padding=True)
    torch.testing.assert_close(logits(ours, inputs), logits(theirs, inputs), atol=1e-4, rtol=0)


def test_several_images_one_and_none_in_a_batch(pair: Any) -> None:
    theirs, ours, _, processor = pair
    images = [[image(SIZES[0]), image(SIZES[1])], [image(SIZES[5])]]
    inputs = processor(images=images, text=[asked(2), asked(1), asked(0)], return_tensors="pt", padding=True)
    torch.testing.assert_close(logits(ours, inputs), logits(theirs, inputs), atol=1e-4, rtol=0)


def test_generation_is_theirs(pair: Any) -> None:
    theirs, ours, _, processor = pair
    images = [image(size) for size in SIZES[:3]]
    inputs = processor(images=images, text=[asked(1)] * 3, return_tensors="pt", padding=True)
    how = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [processor.image_token_id]}
    with torch.no_grad():
        expected = theirs.generate(**inputs, **how)
    assert torch.equal(ours.generate(**inputs, **how), expected)


@pytest.mark.parametrize("tower", [True, False], ids=["with-tower", "tower-elsewhere"])
@pytest.mark.parametrize("tiled", [True, False], ids=["anyres", "pad"])
def test_the_original_layout_gives_the_logits_of_its_port(tower: bool, tiled: bool, tmp_path: Path) -> None:
    source, port = original(tmp_path, tower=tower, tiled=tiled)
    theirs = AutoModelForImageTextToText.from_pretrained(port, dtype=torch.float32).eval()
    ours, processor = load_pretrained(source)
    images = [image(size) for size in (SIZES[1], SIZES[5])]
    inputs = processor(images=images, text=[asked(1), asked(1)], return_tensors="pt", padding=True)
    assert processor.image_token_id == theirs.config.image_token_index
    torch.testing.assert_close(logits(ours, inputs), logits(theirs, inputs), atol=1e-4, rtol=0)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    source = ported("llava_onevision", tmp_path, tied=True)
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours, processor = load_pretrained(source)
    assert ours.get_output_embeddings().weight is ours.get_input_embeddings().weight
    inputs = processor(images=[image(SIZES[0])], text=[asked(1)], return_tensors="pt")
    torch.testing.assert_close(logits(ours, inputs), logits(theirs, inputs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_in_bfloat16_on_a_named_device(kind: str, tmp_path: Path) -> None:
    source = ported(kind, tmp_path)
    model, processor = load_pretrained(source, Loading(dtype="bfloat16", device_map="cpu", attention="eager"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.decoder.config._attn_implementation == "eager"
    inputs = processor(images=[image(SIZES[0])], text=[asked(1)], return_tensors="pt")
    assert torch.isfinite(logits(model, inputs)).all()


def test_a_loaded_checkpoint_is_saved_as_any_other(tmp_path: Path) -> None:
    from vr_eval.models.checkpoints import load_checkpoint, save_checkpoint

    model, processor = load_pretrained(ported("llava_next", tmp_path / "hub"))
    save_checkpoint(model, processor, tmp_path / "ours", {"checkpoint_id": "a"}, torch.float32)
    again, reader = load_checkpoint(tmp_path / "ours", "a")
    inputs = reader(images=[image(SIZES[0])], text=[asked(1)], return_tensors="pt")
    assert torch.equal(logits(again, inputs), logits(model, inputs))
