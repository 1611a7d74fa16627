"""Pieces of published checkpoints: weights in files of both formats, and what their config.json files say.

Sizes are tiny, everything else is written as it is published: older names of tensors and keys, shards with an index,
buffers that newer classes no longer keep, tables of embeddings that are longer than the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

PX, PATCH, GRID = 24, 4, 6
"""Pixels of a tile and of a patch, patches along a side."""
DEPTH, TOWER_WIDTH, WIDTH = 4, 16, 32
SPARE = 24
"""Rows of embeddings beyond the vocabulary: published tables are padded."""
NEXT_POINTS = [[PX, 2 * PX], [2 * PX, PX], [2 * PX, 2 * PX], [3 * PX, PX], [PX, 3 * PX]]
ONEVISION_POINTS = [[PX * rows, PX * columns] for rows in range(1, 7) for columns in range(1, 7)]
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

State = dict[str, Tensor]


def write_json(folder: Path, name: str, content: Any) -> None:
    """Write `content` as a file of a repository."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_weights(folder: Path, state: State, *, shards: int = 1, old: bool = False) -> None:
    """Write `state` as safetensors, or as the `old` pickles; several shards have an index."""
    stem, suffix = ("pytorch_model", "bin") if old else ("model", "safetensors")
    names = list(state)
    parts = [names[place::shards] for place in range(shards)]
    where: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        numbered = f"-{number:05d}-of-{shards:05d}" if shards > 1 else ""
        file = f"{stem}{numbered}.{suffix}"
        held = {name: state[name].contiguous().clone() for name in part}
        if old:
            torch.save(held, folder / file)
        else:
            save_file(held, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    if shards > 1:
        total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        write_json(folder, f"{stem}.{suffix}.index.json", index)


def vision_keys(family: str) -> dict[str, Any]:
    """The vision_config of CLIP or SigLIP as llava-hf writes it: what differs from the class's defaults."""
    sizes = {"hidden_size": TOWER_WIDTH, "image_size": PX, "intermediate_size": 2 * TOWER_WIDTH, "patch_size": PATCH}
    sizes |= {"num_attention_heads": 2, "num_hidden_layers": DEPTH}
    if family == "clip":
        return {"model_type": "clip_vision_model", "projection_dim": 12, "vocab_size": 32000, **sizes}
    return {"model_type": "siglip_vision_model", "vision_use_head": False, **sizes}


def decoder_keys(family: str, vocabulary: int, *, tied: bool = False) -> dict[str, Any]:
    """The configuration of a decoder of Qwen2's or Vicuna's kind."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": DEPTH}
    shared = {"hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 4096, "use_cache": True}
    sizes |= {"vocab_size": vocabulary, **shared}
    if family == "qwen2":
        own = {"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "max_window_layers": DEPTH}
        own |= {"num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768}
        return {**own, **sizes, "model_type": "qwen2", "tie_word_embeddings": tied, "use_sliding_window": False}
    own = {"architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    own |= {"num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None}
    return {**own, **sizes, "model_type": "llama", "tie_word_embeddings": tied}


def clip_images() -> dict[str, Any]:
    """preprocessor_config.json of llava-hf's CLIP models."""
    steps = dict.fromkeys(("do_center_crop", "do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True)
    size = {"crop_size": {"height": PX, "width": PX}, "size": {"shortest_edge": PX}, "resample": 3}
    return {**steps, **size, "image_mean": MEAN, "image_std": STD, "rescale_factor": 1 / 255}


def randomized(model: torch.nn.Module, seed: int, std: float = 0.3) -> State:
    """The weights of `model`, drawn wide enough that answers differ."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, value in model.state_dict().items():
        drawn = torch.randn(value.shape, generator=generator) * std
        state[name] = (1 + drawn / 4 if name.endswith("norm.weight") else drawn) if value.is_floating_point() else value
    return state


def renamed(state: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> State:
    """`state` under other names: of the prefixes that fit, the first one counts; "" fits all."""
    result: State = {}
    for name, value in state.items():
        old = next(prefix for prefix in prefixes if name.startswith(prefix))
        result[prefixes[old] + name.removeprefix(old)] = value
    return result
