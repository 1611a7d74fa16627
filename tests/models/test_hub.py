"""What cannot be loaded is one clear error that says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

from tests.llava import original, ported
from vr_eval.catalog.backbone import Loading, Source
from vr_eval.errors import InputError
from vr_eval.models import hub
from vr_eval.models.pretrained import load_pretrained

SOURCE = Source("someone/llava", "v2")


def refused(source: Source, **how: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_pretrained(source, **how)
    return str(caught.value)


def answered(kind: type[HfHubHTTPError]) -> Exception:
    """What transformers makes of an answer of the hub."""
    request = httpx.Request("GET", "https://huggingface.co/someone/llava")
    cause = kind("no", response=httpx.Response(403, request=request))
    error = OSError("transformers tells it in many words\nof several lines")
    error.__cause__ = cause
    return error


def unreachable() -> Exception:
    error = OSError("We couldn't connect to 'https://huggingface.co' to load the files")
    error.__cause__ = LocalEntryNotFoundError("not in the cache")
    return error


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (
            lambda: answered(GatedRepoError),
            "someone/llava: the configuration is gated, and there is no token that may read it\n"
            "    Accept its terms at https://huggingface.co/someone/llava, then log in with `hf auth login`",
        ),
        (lambda: answered(RevisionNotFoundError), "the hub has no such revision of it (given: 'v2')"),
        (lambda: answered(RepositoryNotFoundError), "the hub has no such model, or not for you"),
        (lambda: answered(HfHubHTTPError), "the configuration cannot be downloaded: transformers tells it"),
        (unreachable, "hf download someone/llava --revision v2"),
        (lambda: OSError("something else\nand more"), "the configuration cannot be loaded: something else"),
    ],
    ids=["gated", "revision", "unknown", "network", "offline", "other"],
)
def test_answers_of_the_hub_are_explained(
    raised: Callable[[], Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise raised()

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", fail)
    message = refused(SOURCE)
    assert words in message
    assert message.count("\n") <= 1


def test_a_model_that_is_not_in_the_cache_of_an_offline_machine() -> None:
    assert "is not in the cache, and the hub cannot be reached" in refused(SOURCE)


def test_a_folder_that_is_not_there_and_one_that_is_empty(tmp_path: Path) -> None:
    assert "there is no such folder" in refused(Source(str(tmp_path / "absent")))
    (tmp_path / "empty").mkdir()
    assert "there is no config.json here" in refused(Source(str(tmp_path / "empty")))


def test_a_model_of_another_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    message = refused(Source(str(tmp_path)))
    assert "not a known checkpoint (given: 'bert'; allowed: a LLaVA or InternVL checkpoint: model_type llava" in message
    assert "-hf" not in message
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl_chat"}))
    assert "the checkpoint of the same name that ends with -hf" in refused(Source(str(tmp_path)))


def changed_config(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vision_feature_layer", [1, 2]),
        ("projector_hidden_act", "relu"),
        ("vision_feature_select_strategy", "full"),
    ],
)
def test_a_checkpoint_that_computes_something_else(key: str, value: Any, tmp_path: Path) -> None:
    source = ported("llava_next", tmp_path)
    changed_config(tmp_path, **{key: value})
    assert f"{key}: the projector mlp does not compute this (given: {value!r}" in refused(source)


def test_an_original_checkpoint_that_computes_something_else(tmp_path: Path) -> None:
    source, _ = original(tmp_path)
    changed_config(Path(source.name), mm_projector_type="linear", mm_patch_merge_type="flat")
    message = refused(source)
    assert "mm_projector_type: the projector mlp does not compute this (given: 'linear'; allowed: mlp2x_gelu" in message
    assert "mm_patch_merge_type" in message
    changed_config(Path(source.name), mm_projector_type="mlp2x_gelu", mm_patch_merge_type="spatial_unpad")
    changed_config(Path(source.name), architectures=["LlavaMptForCausalLM"])
    assert "architectures: unknown decoder (given: 'LlavaMptForCausalLM'; allowed: LlavaLlama" in refused(source)


def test_an_original_checkpoint_whose_tower_is_not_to_be_had(tmp_path: Path) -> None:
    source, _ = original(tmp_path)
    changed_config(Path(source.name), mm_vision_tower="openai/clip-vit-large-patch14-336")
    assert "openai/clip-vit-large-patch14-336: the vision tower is not in the cache" in refused(source)
    assert load_pretrained(source, tower=Source(str(tmp_path / "clip")))


def test_a_checkpoint_without_a_processor(tmp_path: Path) -> None:
    source = ported("llava_next", tmp_path)
    for name in ("processor_config.json", "preprocessor_config.json"):
        (tmp_path / name).unlink(missing_ok=True)
    assert "processor" in refused(source)


def test_every_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    source = ported("llava_next", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["multi_modal_projector.linear_1.bias"]
    tensors["image_newline"] = torch.zeros(33)
    tensors["language_model.model.layers.9.mlp.up_proj.weight"] = torch.zeros(2)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError) as caught:
        load_pretrained(source)
    assert [(problem.key, problem.message) for problem in caught.value.problems] == [
        ("projector.mlp.0.bias", "the checkpoint: missing tensor"),
        ("language_model.model.layers.9.mlp.up_proj.weight", "the checkpoint: unexpected tensor"),
        ("image_newline (33 in place of 32)", "the checkpoint: misshapen tensor"),
    ]


def test_damaged_weights(tmp_path: Path) -> None:
    source = ported("llava", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10\x00")
    assert "the model cannot be loaded" in refused(source)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"dtype": "float61"}, "dtype: this value does not fit (given: 'float61'; allowed: float32, bfloat16, float16"),
        ({"attention": "sdp"}, "did you mean 'sdpa'?"),
        ({"bits": 3}, "bits: this value does not fit (given: 3; allowed: 4, 8"),
        ({"bits": 4}, "bits: this needs the package bitsandbytes\n    Install it (pip install bitsandbytes)"),
        ({"attention": "flash_attention_2"}, "attention: this needs the package flash_attn"),
    ],
)
def test_ways_of_loading_that_do_not_exist_here(
    how: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        hub.arguments_of(Loading(**how))
    assert words in str(caught.value)


def test_the_device_map_goes_through_and_needs_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.arguments_of(Loading(device_map="auto"))["device_map"] == "auto"
    assert Loading(device_map="auto").placed
    assert "device_map" not in hub.arguments_of(Loading())
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="device_map: this needs the package accelerate"):
        hub.arguments_of(Loading(device_map="auto"))


def test_quantisation_leaves_methods_tower_and_head_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: object())
    config = hub.arguments_of(Loading(dtype="bfloat16", bits=4), hub.WHOLE)["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_compute_dtype) == (True, torch.bfloat16)
    assert config.llm_int8_skip_modules == ["vision_tower", "projector", "refusion", "lm_head"]
    assert hub.arguments_of(Loading(bits=8))["quantization_config"].load_in_8bit
