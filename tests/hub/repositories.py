"""Tiny models in the layouts in which the real ones are published, file by file, of transformers' own classes.

What is written is what the repositories of these names are known to hold; no hub was at hand to compare with.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
)

from tests.hub.content import Repository
from tests.hub.parts import (
    DEPTH,
    GRID,
    MEAN,
    NEXT_POINTS,
    ONEVISION_POINTS,
    PATCH,
    PX,
    SPARE,
    STD,
    TOWER_WIDTH,
    State,
    clip_images,
    decoder_keys,
    randomized,
    renamed,
    vision_keys,
    write_json,
    write_weights,
)
from vr_eval.models.made_tokenizers import write_tokenizer

CLIP = "openai/clip-vit-large-patch14-336"
QWEN2 = "Qwen/Qwen2-0.5B-Instruct"
VICUNA = "lmsys/vicuna-7b-v1.5"
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + content['text'] }}{% endfor %}{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def published(id: str, write: Callable[..., None], folder: Path, **how: Any) -> Repository:
    """The repository `id` with the files that `write` makes in `folder`, and those that every one has."""
    write(folder, **how)
    (folder / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n# A model\n")
    repository = Repository("model", id)
    repository.commit(folder)
    return repository


def clip(folder: Path, *, seed: int = 0) -> None:
    """CLIP-ViT-L/14-336: the model of images and text, pickled, with the buffers of its time."""
    text = {"model_type": "clip_text_model", "hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 64, "projection_dim": 12}
    content = {"architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592}
    content |= {"model_type": "clip", "projection_dim": 12, "text_config": text, "vision_config": vision_keys("clip")}
    state = randomized(CLIPModel(CLIPConfig(**content)), seed)
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(GRID**2 + 1)[None]
    write_json(folder, "config.json", {**content, "torch_dtype": "float32"})
    images = {"crop_size": PX, "size": PX, "do_center_crop": True, "do_normalize": True, "do_resize": True}
    images |= {"feature_extractor_type": "CLIPFeatureExtractor", "image_mean": MEAN, "image_std": STD, "resample": 3}
    write_json(folder, "preprocessor_config.json", images)
    write_weights(folder, state, old=True)
    (folder / "tf_model.h5").write_bytes(b"not read" * 100)


def qwen2(folder: Path, *, shards: int = 1, seed: int = 1) -> None:
    """Qwen2-Instruct: tied embeddings in bfloat16, and a generation_config.json that samples with a penalty."""
    write_tokenizer("qwen2", folder)
    words = AutoTokenizer.from_pretrained(folder)
    end, blank = words.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    content = decoder_keys("qwen2", len(words) + SPARE, tied=True)
    content |= {"bos_token_id": blank, "eos_token_id": end, "torch_dtype": "bfloat16"}
    state = randomized(_decoder(content), seed)
    del state["lm_head.weight"]
    write_json(folder, "config.json", content)
    generation = {"bos_token_id": blank, "pad_token_id": blank, "do_sample": True, "eos_token_id": [end, blank]}
    generation |= {"repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    write_json(folder, "generation_config.json", {**generation, "transformers_version": "4.37.0"})
    _vocabulary(folder)
    write_weights(folder, {name: value.bfloat16() for name, value in state.items()}, shards=shards)


def vicuna(folder: Path, *, seed: int = 2) -> None:
    """Vicuna v1.5: pickled shards with an index, sentencepiece alone, and sampling values without sampling."""
    write_tokenizer("vicuna", folder)
    content = decoder_keys("llama", len(AutoTokenizer.from_pretrained(folder)))
    state = randomized(_decoder(content), seed)
    for layer in range(DEPTH):
        state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    write_json(folder, "config.json", {**content, "torch_dtype": "float16", "transformers_version": "4.31.0"})
    generation = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "max_length": 4096}
    write_json(folder, "generation_config.json", {**generation, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6})
    write_json(folder, "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    write_weights(folder, {name: value.half() for name, value in state.items()}, shards=2, old=True)


def llava(folder: Path, *, tiled: bool = False, shards: int = 3, seed: int = 3) -> None:
    """llava-hf's LLaVA-1.5 or (`tiled`) 1.6 on Vicuna: shards, older names, the template in a file of its own."""
    write_tokenizer("vicuna", folder)
    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens(["<image>", "<pad>"], special_tokens=True)
    words.pad_token = "<pad>"
    words.save_pretrained(folder)
    token, pad = words.convert_tokens_to_ids(["<image>", "<pad>"])
    text = decoder_keys("llama", len(words) + SPARE) | {"_name_or_path": VICUNA, "torch_dtype": "float16"}
    kind, name = ("llava_next", "LlavaNext") if tiled else ("llava", "Llava")
    content = {"architectures": [f"{name}ForConditionalGeneration"], "ignore_index": -100, "model_type": kind}
    content |= {"image_token_index": token, "pad_token_id": pad, "projector_hidden_act": "gelu", "text_config": text}
    content |= {"tie_word_embeddings": False, "torch_dtype": "float16", "vision_config": vision_keys("clip")}
    content |= {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    content |= {"image_grid_pinpoints": NEXT_POINTS, "use_image_newline_parameter": True} if tiled else {}
    family = LlavaNextForConditionalGeneration if tiled else LlavaForConditionalGeneration
    state = _older(randomized(family(_config(content)), seed))
    write_json(folder, "config.json", content)
    write_json(folder, "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": pad})
    images = clip_images() | {"image_processor_type": f"{'LlavaNext' if tiled else 'CLIP'}ImageProcessor"}
    tiles = {"aspect_ratio_setting": "anyres", "do_pad": True, "image_grid_pinpoints": NEXT_POINTS} if tiled else {}
    write_json(folder, "preprocessor_config.json", {**images, **tiles, "processor_class": f"{name}Processor"})
    shown = {"image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": PATCH}
    shown |= {"processor_class": f"{name}Processor", "vision_feature_select_strategy": "default"}
    write_json(folder, "processor_config.json", shown)
    _template_apart(folder, LLAVA_TEMPLATE)
    write_weights(folder, {key: value.half() for key, value in state.items()}, shards=shards)


def onevision(folder: Path, *, seed: int = 4) -> None:
    """llava-hf's LLaVA-OneVision with Qwen2-0.5B: SigLIP, one file of weights, images and videos."""
    write_tokenizer("qwen2", folder)
    words = AutoTokenizer.from_pretrained(folder)
    words.add_tokens(["<image>", "<video>"], special_tokens=True)
    words.pad_token = "<|endoftext|>"
    words.save_pretrained(folder)
    image, video = words.convert_tokens_to_ids(["<image>", "<video>"])
    content = {"architectures": ["LlavaOnevisionForConditionalGeneration"], "model_type": "llava_onevision"}
    content |= {"image_grid_pinpoints": ONEVISION_POINTS, "image_token_index": image, "video_token_index": video}
    content |= {"projector_hidden_act": "gelu", "vision_aspect_ratio": "anyres_max_9", "vision_feature_layer": -1}
    content |= {"text_config": decoder_keys("qwen2", len(words) + SPARE), "vision_config": vision_keys("siglip")}
    content |= {"tie_word_embeddings": False, "torch_dtype": "float16", "vision_feature_select_strategy": "full"}
    content |= {"use_image_newline_parameter": True}
    state = _older(randomized(LlavaOnevisionForConditionalGeneration(_config(content)), seed))
    write_json(folder, "config.json", content)
    end = words.convert_tokens_to_ids("<|im_end|>")
    write_json(folder, "generation_config.json", {"eos_token_id": end, "pad_token_id": words.pad_token_id})
    half, size = [0.5] * 3, {"size": {"height": PX, "width": PX}, "resample": 3, "rescale_factor": 1 / 255}
    steps = dict.fromkeys(("do_convert_rgb", "do_normalize", "do_pad", "do_rescale", "do_resize"), True)
    images = {**steps, **size, "image_mean": half, "image_std": half, "processor_class": "LlavaOnevisionProcessor"}
    kind = {"image_processor_type": "LlavaOnevisionImageProcessor", "image_grid_pinpoints": ONEVISION_POINTS}
    write_json(folder, "preprocessor_config.json", {**images, **kind})
    write_json(
        folder, "video_preprocessor_config.json", {**images, "video_processor_type": "LlavaOnevisionVideoProcessor"}
    )
    shown = {"image_token": "<image>", "num_image_tokens": GRID**2, "processor_class": "LlavaOnevisionProcessor"}
    shown |= {"video_token": "<video>", "vision_feature_select_strategy": "full"}
    write_json(folder, "processor_config.json", shown)
    _template_apart(folder, ONEVISION_TEMPLATE)
    write_weights(folder, {key: value.half() for key, value in state.items()})


def internvl(folder: Path, *, most: int = 12, seed: int = 5) -> None:
    """OpenGVLab's InternVL3-1B-hf: template as .jinja, tokens around images, bfloat16."""
    write_tokenizer("internvl", folder)
    words = AutoTokenizer.from_pretrained(folder)
    end, blank = words.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    text = decoder_keys("qwen2", len(words) + SPARE) | {"bos_token_id": blank, "eos_token_id": end}
    vision = {"architectures": ["InternVisionModel"], "attention_bias": True, "hidden_size": TOWER_WIDTH}
    vision |= {"image_size": [PX, PX], "patch_size": [PATCH, PATCH], "intermediate_size": 32, "norm_type": "layer_norm"}
    vision |= {"num_attention_heads": 2, "num_hidden_layers": DEPTH, "use_mean_pooling": True, "use_qk_norm": False}
    vision |= {"model_type": "internvl_vision", "layer_norm_eps": 1e-06, "layer_scale_init_value": 0.1}
    content = {"architectures": ["InternVLForConditionalGeneration"], "downsample_ratio": 0.5, "model_type": "internvl"}
    content |= {"image_seq_length": GRID**2 // 4, "image_token_id": words.convert_tokens_to_ids("<IMG_CONTEXT>")}
    content |= {"projector_hidden_act": "gelu", "text_config": text, "vision_config": vision, "torch_dtype": "bfloat16"}
    content |= {"vision_feature_layer": -1, "vision_feature_select_strategy": "default", "tie_word_embeddings": False}
    state = _older(randomized(InternVLForConditionalGeneration(InternVLConfig(**content)), seed), tower="")
    write_json(folder, "config.json", content)
    write_json(folder, "generation_config.json", {"eos_token_id": [end, blank], "pad_token_id": blank})
    size = {"size": {"height": PX, "width": PX}, "resample": 3, "rescale_factor": 1 / 255}
    steps = dict.fromkeys(("do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    images = {**steps, **size, "image_mean": mean, "image_std": std, "processor_class": "InternVLProcessor"}
    tiles = {"crop_to_patches": False, "image_processor_type": "GotOcr2ImageProcessorFast", "max_patches": most}
    write_json(folder, "preprocessor_config.json", {**images, **tiles, "min_patches": 1})
    write_json(folder, "video_preprocessor_config.json", {**images, "video_processor_type": "InternVLVideoProcessor"})
    write_json(
        folder, "processor_config.json", {"image_seq_length": GRID**2 // 4, "processor_class": "InternVLProcessor"}
    )
    _vocabulary(folder)
    write_weights(folder, {key: value.bfloat16() for key, value in state.items()})


def original_llava(folder: Path, *, seed: int = 6) -> None:
    """liuhaotian/llava-v1.5: Vicuna's configuration with `mm_` keys, pickled, and the tower left with OpenAI."""
    write_tokenizer("vicuna", folder)
    vocabulary = len(AutoTokenizer.from_pretrained(folder))
    content = decoder_keys("llama", vocabulary) | {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava"}
    content |= {"freeze_mm_mlp_adapter": False, "freeze_mm_vision_resampler": False, "image_aspect_ratio": "pad"}
    content |= {"image_grid_pinpoints": None, "mm_hidden_size": TOWER_WIDTH, "mm_projector_type": "mlp2x_gelu"}
    content |= {"mm_resampler_type": None, "mm_use_im_patch_token": False, "mm_use_im_start_end": False}
    content |= {"mm_vision_select_feature": "patch", "mm_vision_select_layer": -2, "mm_vision_tower": CLIP}
    content |= {"torch_dtype": "float16", "tune_mm_mlp_adapter": False, "use_mm_proj": True}
    state = randomized(_decoder(decoder_keys("llama", vocabulary)), seed)
    generator = torch.Generator().manual_seed(seed)
    projector: State = {}
    for layer, shape in (("0", (32, TOWER_WIDTH)), ("2", (32, 32))):
        projector[f"model.mm_projector.{layer}.weight"] = torch.randn(shape, generator=generator) * 0.3
        projector[f"model.mm_projector.{layer}.bias"] = torch.randn(shape[0], generator=generator) * 0.3
    write_json(folder, "config.json", content)
    write_json(folder, "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    halved = {name: value.half() for name, value in (state | projector).items()}
    write_weights(folder, halved, shards=2, old=True)
    torch.save({name: halved[name] for name in projector}, folder / "mm_projector.bin")


def _decoder(content: dict[str, Any]) -> torch.nn.Module:
    return AutoModelForCausalLM.from_config(_config(content))


def _config(content: dict[str, Any]) -> PreTrainedConfig:
    return AutoConfig.for_model(**content)


def _older(state: State, tower: str = "vision_model.") -> State:
    """Names of the classes at the time when the checkpoints were written."""
    names = {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."}
    return renamed(state, {**names, "model.vision_tower.": f"vision_tower.{tower}", "model.": "", "": ""})


def _vocabulary(folder: Path) -> None:
    """The vocabulary and the merges of tokenizer.json once more, as Qwen's repositories have them."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    write_json(folder, "vocab.json", model["vocab"])
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def _template_apart(folder: Path, template: str) -> None:
    """The template in a file of its own, and in none else."""
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content.pop("chat_template", None)
    write_json(folder, path.name, content)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    write_json(folder, "chat_template.json", {"chat_template": template})
