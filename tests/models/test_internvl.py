"""InternVL, a family beyond LLaVA: transformers' own logits, and every seam works on its tower, projector and tiles."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from tests.internvl import MOST, PX, asked, internvl
from tests.llava import SIZES, SIZES_OF_SPEC, image
from tests.models.test_tiles import sizes_of
from vr_eval.catalog.backbone import Loading, Source
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.catalog.recipe import Recipe
from vr_eval.catalog.tiling import InternVLTiles
from vr_eval.config.cell import Cell
from vr_eval.errors import InputError
from vr_eval.methods.registry import METHODS
from vr_eval.models.build import build_lvlm, set_training_free
from vr_eval.models.checkpoints import load_checkpoint, save_checkpoint
from vr_eval.models.lvlm import LVLM
from vr_eval.models.pretrained import load_pretrained

NAME = "internvl3_1b"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return internvl(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def pair(source: Source) -> tuple[PreTrainedModel, LVLM, Any, Any]:
    """Transformers' model, ours, their processor and ours."""
    theirs = AutoModelForImageTextToText.from_pretrained(source.name, dtype=torch.float32).eval()
    ours, processor = load_pretrained(source)
    return theirs, ours, AutoProcessor.from_pretrained(source.name), processor


def logits(model: PreTrainedModel, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits[inputs["attention_mask"].bool()]


def test_logits_are_theirs_for_every_size_alone_and_in_a_batch(pair: Any) -> None:
    theirs, ours, reader, processor = pair
    images = [image(size, seed) for seed, size in enumerate(SIZES)]
    for group in ([images[0]], [images[2]], [images[3]], images):
        texts = [asked(1, "what" * number) for number in range(len(group))]
        expected = reader(images=group, text=texts, return_tensors="pt", padding=True)
        given = processor(images=group, text=texts, return_tensors="pt", padding=True)
        assert all(torch.equal(given[name], expected[name]) for name in expected)
        torch.testing.assert_close(logits(ours, given), logits(theirs, expected), atol=1e-4, rtol=0)


def test_several_images_one_and_none_in_a_batch(pair: Any) -> None:
    theirs, ours, _, processor = pair
    images = [[image(SIZES[0]), image(SIZES[1])], [image(SIZES[5])]]
    inputs = processor(images=images, text=[asked(2), asked(1), asked(0)], return_tensors="pt", padding=True)
    torch.testing.assert_close(logits(ours, inputs), logits(theirs, inputs), atol=1e-4, rtol=0)
    how = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [processor.image_token_id]}
    with torch.no_grad():
        assert torch.equal(ours.generate(**inputs, **how), theirs.generate(**inputs, **how))


@pytest.mark.parametrize(
    "how", [{"decoder": "llava"}, {"tied": True}, {"layer": -2}], ids=["llama", "tied", "another-layer"]
)
def test_other_parts_of_the_family(how: dict[str, Any], tmp_path: Path) -> None:
    source = internvl(tmp_path, **how)
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours, processor = load_pretrained(source)
    inputs = processor(images=[image(SIZES[5])], text=[asked(1)], return_tensors="pt")
    torch.testing.assert_close(logits(ours, inputs), logits(theirs, inputs), atol=1e-4, rtol=0)


def test_names_as_on_the_hub_and_as_in_the_class(pair: Any, tmp_path: Path) -> None:
    theirs, ours, _, processor = pair
    source = internvl(tmp_path)
    own = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    assert own.keys() != load_file(tmp_path / "model.safetensors").keys()
    save_file(own, tmp_path / "model.safetensors", metadata={"format": "pt"})
    inputs = processor(images=[image(SIZES[0])], text=[asked(1)], return_tensors="pt")
    assert torch.equal(logits(load_pretrained(source)[0], inputs), logits(ours, inputs))


def test_token_counts_agree_with_the_processor_for_500_sizes(pair: Any) -> None:
    _, ours, _, processor = pair
    sizes = sizes_of(500)
    told = processor._get_num_multimodal_tokens(image_sizes=[list(size) for size in sizes])["num_image_tokens"]
    assert [count + 2 for count in ours.image_tokens(sizes)] == told  # it counts the tokens around an image too
    some = sizes[:30]
    inputs = processor(images=[image(size) for size in some], text=[asked(1)] * len(some))
    found = [row.count(processor.image_token_id) for row in inputs["input_ids"]]
    assert found == ours.image_tokens(some)


@pytest.fixture
def tiny(source: Source, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The checkpoint in the place of the preset."""
    spec = dataclasses.replace(
        BACKBONES[NAME],
        checkpoint=source,
        **SIZES_OF_SPEC | {"select_layer": 4},
        tiling=InternVLTiles.of(PX, MOST),
    )
    monkeypatch.setitem(BACKBONES, NAME, spec)
    return source


def cell(projector: str, ratio: int, refusion: str = "none", free: str = "none", **options: Any) -> Cell:
    """`free`: its training-free method, of whichever seam."""
    given = {free if free != "none" else refusion: options} if options else {}
    seams: dict[str, Any] = {"pruning": "none", **({METHODS[free].seam: free} if free != "none" else {})}
    return Cell(NAME, projector, ratio, refusion, seed=0, options=given, recipe=Recipe(), **seams)


@pytest.mark.parametrize(
    ("projector", "ratio", "refusion", "free", "options"),
    [
        ("pixel_shuffle", 4, "none", "fastv", {"layer": 2}),
        ("pixel_shuffle", 4, "none", "random", {"layer": 2}),
        ("pixel_shuffle", 4, "none", "downsample", {"factor": 3}),
        ("pixel_shuffle", 4, "vision_remember", "none", {"heads": 4}),
        ("avg_pool", 9, "vision_remember", "none", {"heads": 4}),
        ("tokenpacker", 4, "deepstack", "none", {}),
    ],
)
def test_methods_run_batched_and_cached_as_alone(
    projector: str, ratio: int, refusion: str, free: str, options: dict[str, Any], tiny: Source
) -> None:
    built = cell(projector, ratio, refusion, **options) if free == "none" else cell(projector, ratio)
    if projector == "tokenpacker":
        built = dataclasses.replace(built, options={"tokenpacker": {"heads": 4}})
    model, processor = build_lvlm(built)
    if free != "none":
        set_training_free(model, cell(projector, ratio, refusion, free, **options))
        processor.image_seq_length = model.tokens_per_image
    model.eval()
    with torch.no_grad():  # outputs that start at zero would hide what they do
        for part in (model.projector, model.refusion):
            for parameter in part.parameters() if part is not None else ():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    images = [[image(SIZES[0]), image(SIZES[2])], [image(SIZES[5])]]
    texts = [asked(2), asked(1, "why"), asked(0, "what is printed here?")]
    how = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    inputs = processor(images=images, text=texts, return_tensors="pt", padding=True)
    together = model.generate(**inputs, **how)
    assert torch.equal(model.generate(**inputs, use_cache=False, **how).sequences, together.sequences)
    for number, (own, asking) in enumerate(zip([*images, None], texts, strict=True)):
        alone = model.generate(**processor(images=own and [own], text=[asking], return_tensors="pt"), **how)
        for step, expected in enumerate(alone.logits):
            torch.testing.assert_close(together.logits[step][number], expected[0], atol=3e-4, rtol=1e-4)


def test_its_own_projector_at_its_own_ratio_needs_no_training(tiny: Source, pair: Any) -> None:
    _, ours, _, processor = pair
    inputs = processor(images=[image(SIZES[5])], text=[asked(1)], return_tensors="pt")
    own = cell("pixel_shuffle", 4)
    assert own.pretrained
    assert cell("pixel_shuffle", 4, free="fastv").pretrained
    assert not any(other.pretrained for other in (cell("mlp", 1), cell("pixel_shuffle", 9), cell("avg_pool", 4)))
    remembering, _ = build_lvlm(cell("pixel_shuffle", 4, "vision_remember", heads=4))
    assert not cell("pixel_shuffle", 4, "vision_remember").pretrained
    assert torch.equal(logits(remembering.eval(), inputs), logits(ours, inputs))


def test_a_cell_is_saved_and_loaded_as_any_other(tiny: Source, tmp_path: Path) -> None:
    model, processor = build_lvlm(cell("avg_pool", 9))
    save_checkpoint(model.eval(), processor, tmp_path, {"checkpoint_id": "a"}, torch.float32)
    again, reader = load_checkpoint(tmp_path, "a")
    inputs = reader(images=[image(SIZES[5])], text=[asked(1)], return_tensors="pt")
    assert (inputs["input_ids"] == again.config.image_token_id).sum() == sum(again.image_tokens([SIZES[5]]))
    assert torch.equal(logits(again, inputs), logits(model, inputs))


def test_a_checkpoint_in_bfloat16_on_a_named_device(source: Source) -> None:
    model, processor = load_pretrained(source, Loading(dtype="bfloat16", device_map="cpu", attention="eager"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.decoder.config._attn_implementation == "eager"
    inputs = processor(images=[image(SIZES[0])], text=[asked(1)], return_tensors="pt")
    assert torch.isfinite(logits(model, inputs)).all()


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        (None, "vision_feature_layer", [1, 2]),
        (None, "projector_hidden_act", "relu"),
        (None, "downsample_ratio", 0.75),
        ("vision_config", "use_mean_pooling", False),
    ],
)
def test_a_checkpoint_that_computes_something_else(part: str | None, key: str, value: Any, tmp_path: Path) -> None:
    source = internvl(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (content if part is None else content[part])[key] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{key}: the projector pixel_shuffle does not compute this"):
        load_pretrained(source)
