"""Tiny random checkpoints of the field's real classes and layouts, saved as they are on the hub."""

from __future__ import annotations

import copy
import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers import CLIPVisionConfig as ClipConfig

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.catalog.presets import PRESETS
from vr_eval.catalog.tiling import AnyRes
from vr_eval.micro.tokenizer import train_tokenizer
from vr_eval.models.made_tokenizers import made_tokenizer, write_tokenizer

LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{# images come first #}{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% else %}{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""In the form of llava-1.5's port: images first, and no end behind an answer."""
ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""In the form of LLaVA-OneVision's port."""
PX, PATCH, GRID = 24, 4, 6
SIZES_OF_SPEC: dict[str, Any] = {
    "grid": GRID,
    "image_px": PX,
    "patch_px": PATCH,
    "tower_depth": 4,
    "tower_width": 16,
    "tower_heads": 2,
    "select_layer": 3,
    "decoder_depth": 4,
    "decoder_width": 32,
}
"""What a `BackboneSpec` states of the tiny checkpoints here."""
SQUARE = {"height": PX, "width": PX}
NEXT_POINTS = [[PX, 2 * PX], [2 * PX, PX], [2 * PX, 2 * PX], [3 * PX, PX], [PX, 3 * PX]]
ONEVISION_POINTS = [[PX * rows, PX * columns] for rows in range(1, 7) for columns in range(1, 7)]
KINDS = ("llava", "llava_next", "llava_onevision")
SIZES = [(20, 60), (60, 25), (8, 8), (1, 200), (48, 48), (150, 170), (31, 97)]
"""Heights and widths of images: wide, high, small, extreme, fitting, large, odd."""


def vision(kind: str, layers: int = 4) -> dict[str, Any]:
    family = SiglipVisionConfig if kind == "llava_onevision" else ClipConfig
    head = {"vision_use_head": False} if kind == "llava_onevision" else {}
    return family(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=PX,
        patch_size=PATCH,
        **head,
    ).to_dict()


def text(kind: str, vocabulary: int, *, tied: bool = False) -> dict[str, Any]:
    family = Qwen2Config if kind == "llava_onevision" else LlamaConfig
    return family(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    ).to_dict()


def tokenizer() -> PreTrainedTokenizerBase:
    """The embedded backbone's kind."""
    return train_tokenizer(["what is printed here? user assistant 0123456789"] * 3)


@cache
def _published(kind: str) -> PreTrainedTokenizerBase:
    """With `<image>` added and padding told, as the ports on the hub have it."""
    words = made_tokenizer("qwen2" if kind == "llava_onevision" else "vicuna")
    words.add_tokens([AddedToken("<image>", special=True, normalized=False)])
    if kind == "llava_onevision":
        words.add_tokens([AddedToken("<video>", special=True, normalized=False)])
        words.pad_token, words.chat_template = "<|endoftext|>", ONEVISION_TEMPLATE
    else:
        words.chat_template = LLAVA_TEMPLATE
    return words


def words_of(kind: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a ported checkpoint: Vicuna's kind, or Qwen2's for LLaVA-OneVision."""
    return copy.deepcopy(_published(kind))


def ported(kind: str, folder: Path, *, tied: bool = False) -> Source:
    """A checkpoint of transformers' own class with its processor, as under llava-hf."""
    torch.manual_seed(0)
    words = words_of(kind)
    token = words.convert_tokens_to_ids("<image>")
    shared = {"image_token_index": token, "tie_word_embeddings": tied}
    parts = {"vision_config": vision(kind), "text_config": text(kind, len(words))}
    model: PreTrainedModel
    if kind == "llava":
        model = LlavaForConditionalGeneration(LlavaConfig(**parts, **shared))
        images = CLIPImageProcessor(size={"shortest_edge": PX}, crop_size=SQUARE)
        clip = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        processor: Any = LlavaProcessor(images, words, chat_template=words.chat_template, **clip)
    elif kind == "llava_next":
        model = LlavaNextForConditionalGeneration(LlavaNextConfig(**parts, image_grid_pinpoints=NEXT_POINTS, **shared))
        images = LlavaNextImageProcessor(size={"shortest_edge": PX}, crop_size=SQUARE, image_grid_pinpoints=NEXT_POINTS)
        clip = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        processor = LlavaNextProcessor(images, words, chat_template=words.chat_template, **clip)
    else:
        config = LlavaOnevisionConfig(**parts, image_grid_pinpoints=ONEVISION_POINTS, **shared)
        config.video_token_index = words.convert_tokens_to_ids("<video>")
        model = LlavaOnevisionForConditionalGeneration(config)
        processor = LlavaOnevisionProcessor(
            LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=ONEVISION_POINTS),
            words,
            LlavaOnevisionVideoProcessor(),
            num_image_tokens=GRID**2,
            vision_feature_select_strategy="full",
            chat_template=words.chat_template,
        )
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Source(str(folder))


def original(folder: Path, *, tower: bool = True, tiled: bool = True) -> tuple[Source, Path]:
    """The llava_next checkpoint (or llava, untiled) under the original names, and the CLIP model that it names."""
    kind = "llava_next" if tiled else "llava"
    words = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    clip = CLIPConfig(text_config=words.to_dict(), vision_config=vision(kind))
    torch.manual_seed(1)
    seen = CLIPModel(clip)
    seen.save_pretrained(folder / "clip")
    CLIPImageProcessor(size={"shortest_edge": PX}, crop_size=SQUARE).save_pretrained(folder / "clip")
    ported(kind, folder / "ported")
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder / "ported", dtype=torch.float32)
    model.model.vision_tower.load_state_dict(seen.vision_model.state_dict())
    model.save_pretrained(folder / "ported")
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.removeprefix("model.")
        if name.startswith("vision_tower."):
            if not tower:
                continue
            name = f"model.vision_tower.vision_tower.vision_model.{name.removeprefix('vision_tower.')}"
        elif name.startswith("multi_modal_projector."):
            layer = {"linear_1": "0", "linear_2": "2"}[name.split(".")[1]]
            name = f"model.mm_projector.{layer}.{name.split('.')[2]}"
        elif name.startswith("language_model."):
            name = f"model.{name.removeprefix('language_model.')}"
        elif name == "image_newline":
            name = "model.image_newline"
        state[name] = tensor.clone()
    for layer in range(4):
        state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    out = folder / "original"
    out.mkdir()
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    written = text(kind, model.config.text_config.vocab_size) | {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "mm_vision_tower": str(folder / "clip"),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": 16,
        "mm_patch_merge_type": "spatial_unpad" if tiled else "flat",
        "image_aspect_ratio": "anyres" if tiled else "pad",
        "image_grid_pinpoints": [point[::-1] for point in NEXT_POINTS],
    }
    (out / "config.json").write_text(json.dumps(written))
    write_tokenizer("vicuna", out)
    return Source(str(out)), folder / "ported"


def image(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A random image of a height and width."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def asked(images: int, words: str = "what is it?") -> str:
    """A question in ChatML about so many images."""
    return f"<|im_start|>user\n{'<image>' * images}{words}<|im_end|>\n<|im_start|>assistant\n"


def tiny_preset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Put a tiny checkpoint of LLaVA-NeXT, written to `folder`, in the place of the preset llava_next_vicuna_7b."""
    source = ported("llava_next", folder)
    preset = next(spec for spec in PRESETS if spec.name == "llava_next_vicuna_7b")
    tiny = dataclasses.replace(
        preset,
        checkpoint=source,
        **SIZES_OF_SPEC,
        tiling=AnyRes(tuple((y, x) for y, x in NEXT_POINTS)),
    )
    monkeypatch.setitem(BACKBONES, preset.name, tiny)
    return source
