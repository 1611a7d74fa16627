"""Official checkpoints of small width: their names become ours, and whatever does not fit is named in one error."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vr_eval.cli import main
from vr_eval.errors import InputError
from vr_eval.models.importing import MANIFEST, import_official, load_imported
from vr_eval.models.lvlm import LVLM
from vr_eval.models.official_tensors import SOURCES, expected_shapes, in_numbers, our_name
from vr_eval.testing.tiny import NEXT, pixels, prompt, tiny_lvlm

METHODS = {
    "tokenpacker": ("tokenpacker", 4, "none"),
    "deepstack": ("mlp", 1, "deepstack"),
    "cambrian": ("sva_connector", 4, "sva"),
}


def model_of(source: str) -> LVLM:
    shared = {"shared": True} if source == "deepstack" else {}
    # TokenPacker's official code has four levels.
    levels = {"levels": (1, 2, 3, 4)} if source == "tokenpacker" else {}
    return tiny_lvlm(*METHODS[source], **shared, **levels)


def official(source: str) -> dict[str, Tensor]:
    """The method's tensors of a tiny model under their official names, by a way of their own."""
    named = {}
    for name, value in model_of(source).state_dict().items():
        part, _, rest = name.partition(".")
        if part not in ("projector", "refusion"):
            continue
        if source == "tokenpacker":
            rest = f"mm_projector.{rest}"
        elif source == "deepstack":
            rest = re.sub(r"^mlp\.", "mm_projector.", rest)
        else:
            rest = rest.removeprefix("towers.")
        named[f"model.{rest}"] = value.clone()
    return named


def decoder(width: int = 32, layers: int = 2) -> dict[str, Tensor]:
    """A Llama decoder under its usual names, with a buffer that old checkpoints still have."""
    names = expected_shapes("deepstack", ["model.layers.0.x"], {"num_hidden_layers": layers})
    sizes = {"H": width, "A": width, "G": width // 2, "F": 2 * width, "V": 97, "D": 16}
    kept = {name: words for name, words in names.items() if "mm_projector" not in name}
    tensors = {name: torch.randn(in_numbers(words, sizes)) for name, words in kept.items()}
    return {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}


@pytest.mark.parametrize("source", SOURCES)
def test_the_table_of_official_names_is_that_of_our_modules(source: str) -> None:
    tensors = official(source)
    expected = expected_shapes(source, tensors, {})
    assert set(expected) == set(tensors)
    state = model_of(source).state_dict()
    assert {str(our_name(source, name)) for name in expected} == {
        name for name in state if name.startswith(("projector.", "refusion."))
    }


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["safetensors", "bin", "folder", "shards"])
@torch.no_grad()
def test_an_imported_checkpoint_computes_what_its_tensors_say(source: str, kind: str, tmp_path: Path) -> None:
    tensors = official(source)
    path = tmp_path / "official"
    path.mkdir()
    if kind == "safetensors":
        path = path / "weights.safetensors"
        save_file(tensors, path)
    elif kind == "bin":
        path = path / "weights.bin"
        torch.save(tensors, path)
    elif kind == "folder":
        torch.save(tensors, path / "mm_projector.bin")
    else:
        names = sorted(tensors)
        shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, held in shards.items():
            save_file({name: tensors[name] for name in held}, path / file)
        where = {name: file for file, held in shards.items() for name in held}
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    done = import_official(source, path, tmp_path / "out")
    assert done.tensors == len(tensors)
    model, expected = model_of(source), model_of(source)
    for module in (model.projector, model.refusion):
        for parameter in module.parameters() if module is not None else ():
            parameter.zero_()
    load_imported(model, tmp_path / "out")
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    assert torch.equal(model(ids, None, pixels(1)).logits, expected(ids, None, pixels(1)).logits)


def test_decoder_tower_and_newline_come_along(tmp_path: Path) -> None:
    tower = {"model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight": torch.ones(16)}
    tensors = {**official("cambrian"), **decoder(), **tower, "model.image_newline": torch.ones(32)}
    save_file(tensors, tmp_path / "model.safetensors")
    done = import_official("cambrian", tmp_path, tmp_path / "out")
    assert done.unused == ("image_newline",)
    assert done.sizes["H"] == 32
    (file,) = (tmp_path / "out").glob("*.safetensors")
    written = load_file(file)
    assert len(written) == done.tensors == len(tensors) - 1
    assert "language_model.model.layers.1.mlp.up_proj.weight" in written
    assert "language_model.lm_head.weight" in written
    assert "vision_tower.pre_layrnorm.weight" in written
    assert not [name for name in written if "inv_freq" in name]
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["source"], manifest["tensors"]) == ("cambrian", done.tensors)


def test_a_model_of_images_in_tiles_takes_the_newline_and_others_leave_it(tmp_path: Path) -> None:
    tensors = {**official("deepstack"), "model.image_newline": torch.full((32,), 7.0)}
    save_file(tensors, tmp_path / "model.safetensors")
    import_official("deepstack", tmp_path, tmp_path / "out")
    tiled = tiny_lvlm("mlp", 1, tiling=NEXT)
    load_imported(tiled, tmp_path / "out")
    assert torch.equal(tiled.state_dict()["image_newline"], tensors["model.image_newline"])
    load_imported(tiny_lvlm("mlp", 1), tmp_path / "out")


@pytest.mark.parametrize("source", SOURCES)
def test_every_tensor_that_does_not_fit_is_named_in_one_error(source: str, tmp_path: Path) -> None:
    tensors = {**official(source), **decoder()}
    lacking = next(name for name in tensors if name.endswith("2.weight"))
    bent = "model.mm_projector.mlp.2.bias" if source == "tokenpacker" else "model.mm_projector.0.bias"
    torn = "model.layers.1.mlp.down_proj.weight"
    flat = "model.layers.0.self_attn.q_proj.weight"
    del tensors[lacking]
    tensors[bent] = torch.zeros(33)
    tensors[torn] = torch.zeros(32, 65)
    tensors[flat] = torch.zeros(32)
    tensors["model.mm_projekt.weight"] = torch.zeros(2)
    tensors["lm_head.bias"] = torch.zeros(97)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as caught:
        import_official(source, tmp_path, tmp_path / "out")
    assert {problem.key for problem in caught.value.problems} == {
        lacking,
        bent,
        torn,
        flat,
        "model.mm_projekt.weight",
        "lm_head.bias",
    }
    message = str(caught.value)
    assert f"{lacking}: missing tensor" in message
    assert f"{bent}: misshapen tensor (given: 33; allowed: 32)" in message
    assert f"{torn}: misshapen tensor (given: 32 x 65; allowed: 32 x 64)" in message
    assert f"{flat}: misshapen tensor (given: 32; allowed: 32 x 32)" in message
    assert "lm_head.bias: unexpected tensor" in message
    assert not (tmp_path / "out").exists()


def test_layers_that_only_the_config_knows_of_are_missed(tmp_path: Path) -> None:
    save_file({**official("deepstack"), **decoder(layers=2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"model\.layers\.2\.mlp\.up_proj\.weight: missing tensor"):
        import_official("deepstack", tmp_path, tmp_path / "out")


def test_a_connector_alone_needs_no_layers_inside_the_decoder(tmp_path: Path) -> None:
    tensors = {name: value for name, value in official("cambrian").items() if "vision_sampler_layers" not in name}
    save_file(tensors, tmp_path / "model.safetensors")
    import_official("cambrian", tmp_path, tmp_path / "out")
    load_imported(tiny_lvlm("sva_connector", 4), tmp_path / "out")
    with pytest.raises(InputError, match=r"refusion\.vision_sampler_layers\.0\..*: missing tensor"):
        load_imported(model_of("cambrian"), tmp_path / "out")


def test_a_model_of_other_sizes_is_told_which_tensors_do_not_fit(tmp_path: Path) -> None:
    save_file(official("tokenpacker"), tmp_path / "model.safetensors")
    import_official("tokenpacker", tmp_path, tmp_path / "out")
    with pytest.raises(InputError) as caught:
        load_imported(tiny_lvlm("tokenpacker", 4), tmp_path / "out")  # three levels
    lifts = {f"projector.{part}_proj_1.0.weight" for part in "kv"}
    assert {problem.key for problem in caught.value.problems} == lifts
    with pytest.raises(InputError, match="no complete import here"):
        load_imported(tiny_lvlm("tokenpacker", 4), tmp_path)


class Harmful:
    def __reduce__(self) -> object:
        return (print, ("code of a checkpoint ran",))


def test_files_that_are_no_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def message(name: str) -> str:
        with pytest.raises(InputError) as caught:
            import_official("tokenpacker", tmp_path / name, tmp_path / "out")
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00\x00")
    (tmp_path / "torn.bin").write_bytes(b"nothing")
    torch.save({"a": Harmful()}, tmp_path / "harmful.bin")
    torch.save({"a": {"b": torch.zeros(1)}}, tmp_path / "nested.bin")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors", "b": "absent.safetensors"}}))
    assert "there is no such file or folder" in message("absent")
    assert "no weights in this folder" in message("empty")
    assert "torn.safetensors: cannot be read as weights" in message("torn.safetensors")
    assert "torn.bin: cannot be read as weights" in message("torn.bin")
    assert "harmful.bin: cannot be read as weights" in message("harmful.bin")
    assert "code of a checkpoint" not in capsys.readouterr().out
    assert "nested.bin: not a mapping of names to tensors" in message("nested.bin")
    assert message(index.name).count("names a file that is not beside it") == 2


def test_the_command_writes_once_and_ends_with_exit_code_2_on_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(official("deepstack"), tmp_path / "mm_projector.safetensors")
    command = ["import", "deepstack", str(tmp_path / "mm_projector.safetensors"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "4 tensors written to" in capsys.readouterr().out
    assert main(command) == 2
    assert "--out: there is something here already" in capsys.readouterr().err
    assert main(["import", "cambrain", "x", "--out", str(tmp_path / "other")]) == 2
    assert "did you mean 'cambrian'?" in capsys.readouterr().err
