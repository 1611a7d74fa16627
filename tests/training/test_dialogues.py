"""Training on conversations of users' own: LLaVA's form and the datasets library's, broken samples, real backbones."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch.utils.data import DataLoader

from tests.damaged import odd_exif
from tests.llava import image, tiny_preset, tokenizer
from tests.training.test_conversation import written
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.cli import main
from vr_eval.config import identity
from vr_eval.config.checkpoint_folders import trained_checkpoint
from vr_eval.config.grid import load_grid
from vr_eval.config.identity import checkpoint_id
from vr_eval.errors import InputError, VrEvalError
from vr_eval.models.build import build_lvlm
from vr_eval.models.checkpoints import load_checkpoint, read_manifest
from vr_eval.models.lvlm import IGNORE
from vr_eval.training.data import padded
from vr_eval.training.dialogues import Shown, collate_dialogues, dialogues
from vr_eval.training.templates import Template
from vr_eval.training.trainer import WholeBatches, shares

TURNS = [("<image>\nwhat is it?", "a code"), ("and here?", "7K2A")]
GRID = """\
name: own
backbone: {backbone}
tasks: [vr_micro_ocr]
cells:
  - {{projector: avg_pool, ratio: 4, refusion: vision_remember}}
recipe: {{batch_size: 4, max_length: 2000, stage1: {{steps: 2, data: {data}, image_folder: images{stage1}}},
  stage2: {{steps: 3, data: {data}, image_folder: images, lr_tower: 1.0e-4{stage2}}}{more}}}
"""


def turns(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": who, "value": text} for pair in said for who, text in zip(("human", "gpt"), pair, strict=True)]


def write_data(folder: Path, count: int = 10, px: int = 60) -> list[dict[str, Any]]:
    """Conversations about one image, two images and none, of several lengths."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for number in range(count):
        for part in range(2):
            image((px + 7 * number, px - 4 * number), seed=2 * number + part).save(
                folder / f"images/{number}-{part}.png"
            )
        kind = number % 3
        names: Any = [f"{number}-0.png", f"{number}-1.png"] if kind == 1 else f"{number}-0.png"
        first = "what is " + "<image>\n" * (2, 2, 0)[kind] if kind != 0 else "<image>\nwhat is it?"
        record = {"id": number, "conversations": turns((first, f"number {number}"), ("sure?", "yes, " * (1 + number)))}
        records.append(record if kind == 2 else {**record, "image": names})
    (folder / "data.json").write_text(json.dumps(records))
    return records


def broken_records() -> list[dict[str, Any]]:
    return [
        {"id": "gone", "image": "gone.png", "conversations": turns(("<image>what?", "a"))},
        {"id": "torn", "image": "torn.png", "conversations": turns(("<image>what?", "a"))},
        {"id": "empty", "conversations": []},
        {"id": "long", "conversations": turns(("say it", "yes " * 4000))},
        {"id": "two", "image": "0-0.png", "conversations": turns(("<image><image>what?", "a"))},
        {"id": "twice", "conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}] * 2},
        {"id": "mute", "conversations": turns(("what?", " "))},
        {"id": "null", "conversations": [*turns(("what?", "a"))[:1], {"from": "gpt", "value": None}]},
        {"id": "exif", "image": "exif.jpg", "conversations": turns(("<image>what?", "a"))},
    ]


REASONS = {
    "gone": "an image is missing",
    "torn": "an image cannot be read",
    "empty": "the conversation is empty",
    "long": "longer than 2000 tokens",
    "two": "images and their places differ in number",
    "twice": "questions and answers do not alternate",
    "mute": "an answer is empty",
    "null": "a turn says something that is no text",
    "exif": "an image cannot be read",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    return tmp_path


def write_grid(
    folder: Path, backbone: str = "micro", data: str = "data.json", more: str = "", stage1: str = "", stage2: str = ""
) -> Path:
    path = folder / "own.yaml"
    path.write_text(GRID.format(backbone=backbone, data=data, more=more, stage1=stage1, stage2=stage2))
    return path


# --- how a conversation is written


def test_chatml_is_what_the_embedded_suites_train_on() -> None:
    words = tokenizer()
    ours = Template("chatml", words).encode(TURNS, image_tokens=[5])
    assert (ours.input_ids, ours.labels) == written(words, [("what is it?", "a code"), TURNS[1]], image_tokens=5)


@pytest.mark.parametrize(
    ("name", "text", "supervised"),
    [
        (
            "vicuna",
            "polite answers to the user's questions. USER: <image><image>\nwhat is it? "
            "ASSISTANT: a code<|im_end|>USER: and here? ASSISTANT: 7K2A<|im_end|>",
            " a code<|im_end|> 7K2A<|im_end|>",
        ),
        ("plain", "<image><image>a code\n7K2A\n", "a code\n7K2A\n"),
    ],
)
def test_the_other_templates(name: str, text: str, supervised: str) -> None:
    words = tokenizer()
    sample = Template(name, words).encode(TURNS, image_tokens=[2])
    assert words.decode(sample.input_ids).endswith(text)
    labels = [label for label in sample.labels if label != IGNORE]
    assert words.decode(labels) == supervised
    assert all(label in (token, IGNORE) for token, label in zip(sample.input_ids, sample.labels, strict=True))


def test_a_system_turn_stands_first_and_is_not_supervised() -> None:
    words = tokenizer()
    sample = Template("chatml", words).encode(TURNS[1:], "be brief")
    assert words.decode(sample.input_ids).startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user")
    assert words.decode([label for label in sample.labels if label != IGNORE]) == "7K2A<|im_end|>"


def test_places_without_an_image_are_refused() -> None:
    with pytest.raises(ValueError, match="images and their places differ in number"):
        Template("chatml", tokenizer()).encode(TURNS)


# --- what is read


def test_samples_of_a_tiled_backbone_go_through_the_model_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several images, one, none: image tokens, tiles and sizes fit what the model counts itself."""
    tiny_preset(folder / "hub", monkeypatch)
    (cell,) = load_grid(write_grid(folder, "llava_next_vicuna_7b")).cells
    model, processor = build_lvlm(cell)
    found = dialogues(cell, 2, model, processor)
    assert len(found.dialogues) == 10
    assert not found.broken
    for number, sample in enumerate(found.dialogues):
        assert len(sample["input_ids"]) == found.dialogues.lengths[number]
        shown = sum(token == model.config.image_token_id for token in sample["input_ids"])
        assert shown == sum(model.image_tokens(sample["sizes"]))
        assert len(sample["sizes"]) == (1, 2, 0)[number % 3]
        side = model.grid // model.config.shapes.stride
        tiles = [model.scheme.place(size, side).tiles for size in sample["sizes"]]
        assert [len(tile) for tile in sample["tiles"]] == tiles
    together = partial(
        collate_dialogues, pad_token_id=0, image_token_id=model.config.image_token_id, shown=Shown.of(model)
    )
    model.train()
    for batch in DataLoader(found.dialogues, batch_size=3, collate_fn=together):
        assert torch.isfinite(model(**batch).loss)


@pytest.mark.parametrize("backbone", ["micro", "llava_next_vicuna_7b"])
def test_text_alone_reaches_every_part_and_sees_no_image(
    folder: Path, monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    """Processes that train together wait for each other's gradients: a part without any would hold them up."""
    tiny_preset(folder / "hub", monkeypatch)
    (cell,) = load_grid(write_grid(folder, backbone)).cells
    model, processor = build_lvlm(cell)
    found = dialogues(cell, 2, model, processor)
    rows = [found.dialogues[2], found.dialogues[5]]
    batch = collate_dialogues(rows, 0, model.config.image_token_id, Shown.of(model))
    out = model.train()(**batch)
    out.loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("projector.", "refusion.")):
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name
    bare = padded(rows, 0)
    torch.testing.assert_close(out.loss, model(**bare).loss)


def test_the_forms_of_the_datasets_library_give_the_same_samples(folder: Path) -> None:
    records = json.loads((folder / "data.json").read_text())
    rows = []
    for record in records:
        names = record.get("image", [])
        names = names if isinstance(names, list) else [names]
        opened = [{"bytes": (folder / "images" / name).read_bytes(), "path": None} for name in names]
        rows.append({"id": str(record["id"]), "conversations": record["conversations"], "images": opened})
    turn = {"from": datasets.Value("string"), "value": datasets.Value("string")}
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "conversations": datasets.List(turn),
            "images": datasets.List(datasets.Image()),
        }
    )
    table = datasets.Dataset.from_list(rows, features=features)
    table.save_to_disk(str(folder / "saved"))
    (folder / "parquet").mkdir()
    table.to_parquet(str(folder / "parquet" / "train.parquet"))
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    samples = {}
    for name in ("data.json", "data.jsonl", "saved", "parquet"):
        (cell,) = load_grid(write_grid(folder, data=name)).cells
        samples[name] = list(dialogues(cell, 2, *build_lvlm(cell)).dialogues)
    for name, found in samples.items():
        for ours, theirs in zip(found, samples["data.json"], strict=True):
            assert (ours["input_ids"], ours["labels"]) == (theirs["input_ids"], theirs["labels"]), name
            assert all(torch.equal(one, other) for one, other in zip(ours["tiles"], theirs["tiles"], strict=True))


def test_broken_samples_are_counted_listed_and_left_out_up_to_a_share(folder: Path) -> None:
    (folder / "images/torn.png").write_bytes((folder / "images/0-0.png").read_bytes()[:60])
    (folder / "images/exif.jpg").write_bytes(odd_exif())
    (folder / "data.json").write_text(json.dumps(write_data(folder) + broken_records()))
    (cell,) = load_grid(write_grid(folder, more=", broken: 0.5")).cells
    found = dialogues(cell, 2, *build_lvlm(cell))
    assert len(found.dialogues) == 10
    assert dict(found.broken) == REASONS
    (cell,) = load_grid(write_grid(folder)).cells
    with pytest.raises(InputError) as caught:
        dialogues(cell, 2, *build_lvlm(cell))
    message = str(caught.value)
    assert "9 of 19 samples are broken (an image cannot be read: 2, an image is missing: 1" in message
    assert "allowed: at most 1.0%" in message
    listed = Path(message.split("All are listed in ")[1].removesuffix("."))
    assert listed.read_text().splitlines()[:2] == ["sample,reason", "gone,an image is missing"]
    write_data(folder)  # mended: they are looked at again
    (cell,) = load_grid(write_grid(folder)).cells
    assert len(dialogues(cell, 2, *build_lvlm(cell)).dialogues) == 10


def test_a_conversation_that_was_cut_at_its_ends_is_read_between_them(folder: Path) -> None:
    cut = [{"from": "gpt", "value": "so"}, *turns(("what?", "that")), {"from": "human", "value": "and?"}]
    (folder / "data.json").write_text(json.dumps([{"id": 0, "conversations": cut}] * 4))
    (cell,) = load_grid(write_grid(folder)).cells
    model, processor = build_lvlm(cell)
    sample, *_ = list(dialogues(cell, 2, model, processor).dialogues)
    labels = [label for label in sample["labels"] if label != IGNORE]
    assert processor.tokenizer.decode(labels) == "that<|im_end|>"


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "cannot be read: Expecting property name"), ('{"a": 1}', "must be a list of conversations (given: 'dict')")],
)
def test_a_file_that_holds_no_list(folder: Path, content: str, words: str) -> None:
    (folder / "data.json").write_text(content)
    (cell,) = load_grid(write_grid(folder)).cells
    with pytest.raises(InputError) as caught:
        dialogues(cell, 1, *build_lvlm(cell))
    assert words in str(caught.value)
    assert "data.json" in str(caught.value)


def test_a_column_that_is_not_there(folder: Path) -> None:
    datasets.Dataset.from_list([{"text": "a"}]).save_to_disk(str(folder / "saved"))
    (cell,) = load_grid(write_grid(folder, data="saved")).cells
    with pytest.raises(InputError, match="a column is missing"):
        dialogues(cell, 1, *build_lvlm(cell))


# --- recipes and identity


def test_data_count_by_their_content_and_not_by_their_place(folder: Path) -> None:
    (cell,) = load_grid(write_grid(folder)).cells
    other = folder / "other"
    write_data(other)
    (moved,) = load_grid(write_grid(other)).cells
    assert moved.recipe.stage1.data != cell.recipe.stage1.data
    assert checkpoint_id(moved) == checkpoint_id(cell)
    (other / "data.json").write_text((other / "data.json").read_text().replace("number 3", "number 4"))
    assert checkpoint_id(moved) != checkpoint_id(cell)


def test_what_was_trained_by_an_earlier_reader_is_trained_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took null for a word; the embedded suites hold none."""
    (cell,) = load_grid(write_grid(folder)).cells
    (embedded,) = load_grid(write_grid(folder), ["recipe={}"]).cells
    before = checkpoint_id(cell), checkpoint_id(embedded)
    monkeypatch.setattr(identity, "CONVERSATIONS_VERSION", 1)
    assert checkpoint_id(cell) != before[0]
    assert checkpoint_id(embedded) == before[1]


def test_the_recipe_file_is_the_presets(folder: Path) -> None:
    text = "name: a\nbackbone: micro\ncells: [{projector: mlp}]\nrecipe: {from: llava_next, stage2: {steps: 7}}\n"
    (folder / "a.yaml").write_text(text)
    recipe = load_grid("a.yaml").recipe
    preset = BACKBONES["llava_next_qwen2_0_5b"].recipe
    assert recipe.stage1 == preset.stage1
    assert recipe.stage2 == dataclasses.replace(preset.stage2, steps=7)
    for name in ("batch_size", "lr_projector", "image_first"):
        assert getattr(recipe, name) == getattr(preset, name)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            "{from: llava_nxt}",
            "a.yaml:4: recipe.from: there is no such recipe (given: 'llava_nxt'; allowed: a file, or one",
        ),
        (
            "{stage1: {data: gone.json}}",
            "a.yaml:4: recipe.stage1.data: there is no such file or folder (given: 'gone.json'",
        ),
        ("{stage2: {image_folder: gone}}", "a.yaml:4: recipe.stage2.image_folder: there is no such folder"),
        ("{stage2: {template: chatlm}}", "a.yaml:4: recipe.stage2.template: this value does not fit (given: 'chatlm'"),
    ],
)
def test_mistakes_in_a_recipe(folder: Path, recipe: str, words: str) -> None:
    (folder / "a.yaml").write_text(f"name: a\nbackbone: micro\ncells: [{{projector: mlp}}]\nrecipe: {recipe}\n")
    with pytest.raises(InputError) as caught:
        load_grid("a.yaml")
    assert words in str(caught.value)


NO_DATA = (
    "vr-eval: a.yaml:5: recipe.stage1.data: no data to train llava_next_vicuna_7b on in stage 1 "
    "(allowed: a LLaVA-format .json or .jsonl file, a .parquet file"
)


def test_a_real_backbone_trains_on_named_data_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_preset(folder / "hub", monkeypatch)
    capsys.readouterr()
    text = "name: a\nbackbone: llava_next_vicuna_7b\ntasks: [vr_micro_ocr]\ncells: [{projector: avg_pool, ratio: 4}]\n"
    path = folder / "a.yaml"
    path.write_text(text + "recipe: {stage2: {data: data.json}}\n")
    for command in ("plan", "train", "run"):
        assert main([command, "a.yaml"]) == 2
        said = capsys.readouterr()
        assert said.err.startswith(NO_DATA)
        assert not said.out
    path.write_text(text + "recipe: {stage1: {data: data.json}, stage2: {data: data.json}}\n")
    assert main(["plan", "a.yaml"]) == 0
    data = folder / "data.json"
    plan = capsys.readouterr().out
    assert f"training data: stage 1 {data}, stage 2 {data}" in plan
    assert "written as: stage 1 plain, stage 2 as the model is asked; a question's only image goes to its front" in plan
    # Nothing is trained where the method adds nothing to a trained backbone.
    path.write_text(text.replace("{projector: avg_pool, ratio: 4}", "{projector: mlp, pruning: fastv}"))
    assert main(["plan", "a.yaml"]) == 0


def test_a_template_that_the_tokenizer_does_not_know(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = load_grid(write_grid(folder, stage2=", template: chatml")).cells
    model, processor = build_lvlm(cell)
    monkeypatch.setattr(type(processor.tokenizer), "get_vocab", lambda _: {"a": 0})
    with pytest.raises(InputError, match=r"recipe.stage2.template: the tokenizer of micro has no <\|im_start\|>"):
        dialogues(cell, 2, model, processor)


def test_fewer_samples_than_a_batch(folder: Path) -> None:
    (cell,) = load_grid(write_grid(folder, more=", broken: 0", stage1=", batch_size: 11")).cells
    with pytest.raises(InputError, match=r"recipe.stage1.batch_size: 10 samples are fewer than a batch of stage 1"):
        dialogues(cell, 1, *build_lvlm(cell))
    (cell,) = load_grid(write_grid(folder), ["recipe.batch_size=12"]).cells
    with pytest.raises(InputError, match=r": recipe.batch_size: 10 samples are fewer than a batch of stage 2"):
        dialogues(cell, 2, *build_lvlm(cell))


def test_an_image_that_goes_while_it_trains(folder: Path) -> None:
    (cell,) = load_grid(write_grid(folder)).cells
    found = dialogues(cell, 2, *build_lvlm(cell))
    (folder / "images/0-0.png").unlink()
    with pytest.raises(VrEvalError, match="training data changed: sample 0: an image is missing"):
        found.dialogues[0]


# --- training


def test_a_cell_of_a_tiled_backbone_trains_on_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_preset(folder / "hub", monkeypatch)
    (folder / "images/exif.jpg").write_bytes(odd_exif())
    lost = [broken_records()[place] for place in (0, -2, -1)]
    (folder / "data.json").write_text(json.dumps(write_data(folder) + lost))
    path = write_grid(
        folder, "llava_next_vicuna_7b", more=", broken: 0.3", stage1=", batch_size: 4", stage2=", template: vicuna"
    )
    (cell,) = load_grid(path).cells
    assert main(["train", str(path), "--device", "cpu"]) == 0
    out = trained_checkpoint(cell)
    load_checkpoint(out, expect=checkpoint_id(cell))
    manifest = read_manifest(out)
    assert manifest["data"]["stage2"]["samples"] == 10
    words = [REASONS[name] for name in ("gone", "null", "exif")]
    assert manifest["data"]["stage2"]["broken"] == dict.fromkeys(words, 1)
    listed = f"sample,reason\ngone,{words[0]}\nnull,{words[1]}\nexif,{words[2]}\n"
    assert (out / "stage2.broken.csv").read_text() == listed
    assert len(manifest["loss"]["stage2"]) == 1


def test_batches_are_drawn_alike_in_every_epoch_anew() -> None:
    lengths = [10 * (number % 7) + number for number in range(700)]

    def spread(rows: list[int]) -> int:
        batches = [[lengths[row] for row in rows[start : start + 8]] for start in range(0, 696, 8)]
        return sum(max(batch) - min(batch) for batch in batches)

    drawn = WholeBatches(lengths, 8, seed=3)
    first = list(drawn)
    drawn.set_epoch(1)
    second = list(drawn)
    drawn.set_epoch(0)
    assert list(drawn) == first != second
    assert len(drawn) == len(set(first)) == 696
    assert spread(first) < spread(random.Random(0).sample(range(700), 696)) / 4


@pytest.mark.parametrize(
    ("batch", "world", "at_once", "expected"), [(8, 1, None, (8, 1)), (8, 2, None, (4, 1)), (8, 2, 2, (2, 2))]
)
def test_the_batch_is_that_of_all_processes_together(
    batch: int, world: int, at_once: int | None, expected: tuple[int, int]
) -> None:
    assert shares(batch, world, at_once) == expected


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(InputError, match="a batch of 8 does not divide among 2 processes of 3 samples at once"):
        shares(8, 2, 3)


def test_fsdp_needs_several_gpus(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_grid(folder)
    assert main(["train", "own.yaml", "--device", "cpu", "--fsdp"]) == 1
    assert "--fsdp needs several processes with a GPU each" in capsys.readouterr().err


IN_FLOAT32 = """\
import sys
from vr_eval.cli import main
from vr_eval.training import trainer

trainer.fast_bfloat16 = lambda cpu: False
sys.exit(main(sys.argv[1:]))
"""
"""`vr-eval` on any CPU as on one without bfloat16, whose rounding depends on how a batch is shared out."""


def losses(folder: Path, home: str, processes: int, *options: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """What `vr-eval train` under torchrun ends with: the loss of every step that is logged, and the weights."""
    (folder / "in_float32.py").write_text(IN_FLOAT32)
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "in_float32.py"]
    environment = {
        **os.environ,
        "VR_EVAL_HOME": str(folder / home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-m", *launch, "train", "own.yaml", "--device", "cpu", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (cell,) = load_grid(folder / "own.yaml").cells
    out = folder / home / "checkpoints" / checkpoint_id(cell)
    model, _ = load_checkpoint(out)
    curve = read_manifest(out)["loss"]
    return [loss for stage in ("stage1", "stage2") for _, loss in curve[stage]], model.state_dict()


@pytest.mark.slow
def test_processes_that_train_together_train_as_one_does(folder: Path) -> None:
    """At an equal batch of all, with text alone in some shares: data parallel, accumulated, recomputed."""
    write_data(folder, px=192)
    path = write_grid(folder)
    path.write_text(path.read_text().replace("stage2: {steps: 3", "stage2: {steps: 20"))
    one, weights = losses(folder, "one", 1)
    assert len(one) == 3
    for home, options in {
        "two": (),
        "accumulated": ("--device-batch", "1", "--checkpoint-activations"),
    }.items():
        curve, own = losses(folder, home, 2, *options)
        assert curve == pytest.approx(one, abs=2e-3), home
        for name, tensor in weights.items():
            assert torch.allclose(own[name], tensor, atol=5e-3), (home, name)
