"""Configurations of published checkpoints as far as they decide shapes, by the checkpoint's name. No torch.

With them a model has its true shapes although nothing of it is fetched: `--random-weights` draws its weights, and
`vr-eval bench` measures it. Keys and values are those of the published config.json; what is left out has transformers'
default. Where each was read:

- CLIP-ViT-L/14-336 and LLaVA-1.5: the configuration of llava-hf/llava-1.5-7b-hf, revision 05ae2434, as transformers
  prints it when it loads it (public logs of June 2024).
- SigLIP-so400m/14-384 without its last layer, and the vocabularies of LLaVA-OneVision (Qwen2's and two tokens, filled
  up to a multiple of 64): transformers' convert_llava_onevision_weights_to_hf.py. That of LLaVA-NeXT (Vicuna's, the
  same way) and its pinpoints: transformers' convert_llava_next_weights_to_hf.py.
- Qwen2: the technical report (arXiv 2407.10671, table of architectures); vocabulary, rotary base and positions from
  the configuration that Qwen/Qwen2-7B-Instruct prints (github.com/Retruth/deontic, nlp_models/qwen2/README.md), and
  those of 0.5B from github.com/rwth-i6/i6_experiments, users/juanola, qwen2_configs.py. 1.5B has the vocabulary of 0.5B
  (both as Qwen2.5's configurations print it, whose sizes are the same).
- Vicuna-7B: the configuration of lmsys/vicuna-7b-v1.5 as LLaVA's own code prints it (public logs).
- InternViT-300M: github.com/OpenGVLab/InternVL, internvl_chat/tools/internvl_custom2hf.py; the decoder of InternVL3-1B:
  github.com/shivangjhalani/multicoco, InternVL3-1B_data.md. Its initial scales of weights are not taken over: they say
  nothing about shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vr_eval.catalog.backbone import BackboneSpec


@dataclass(frozen=True)
class Stated:
    """What a published checkpoint is but for its weights.

    Attributes:
        config: Of its config.json, what is not transformers' default.
        tokenizer: A kind of `vr_eval.models.made_tokenizers`; empty for a vision tower, which has none.
    """

    config: Mapping[str, Any]
    tokenizer: str = ""

    @property
    def tower(self) -> Mapping[str, Any]:
        """Configuration of its vision tower."""
        found: Mapping[str, Any] = self.config.get("vision_config", self.config)
        return found

    @property
    def decoder(self) -> Mapping[str, Any]:
        """Configuration of its decoder."""
        found: Mapping[str, Any] = self.config.get("text_config", self.config)
        return found


_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}

_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}

_INTERNVIT = {
    "model_type": "internvl_vision",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": [448, 448],
    "patch_size": [14, 14],
    "attention_bias": True,
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "layer_scale_init_value": 0.1,
    "use_absolute_position_embeddings": True,
    "use_mean_pooling": True,
    "use_qk_norm": False,
}

_QWEN2_0_5B = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}

_QWEN2_1_5B = _QWEN2_0_5B | {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
}

_QWEN2_7B = _QWEN2_0_5B | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}

_VICUNA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

_INTERNVL3_1B = _QWEN2_0_5B | {
    "vocab_size": 151674,
    "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    "tie_word_embeddings": False,
}

_LLAVA_VICUNA = {
    "vision_config": _CLIP,
    "text_config": _VICUNA_7B | {"vocab_size": 32064},
    "image_token_index": 32000,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "projector_hidden_act": "gelu",
    "tie_word_embeddings": False,
}

_NEXT_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def _onevision(decoder: Mapping[str, Any], vocabulary: int) -> Stated:
    config = {
        "model_type": "llava_onevision",
        "vision_config": _SIGLIP,
        "text_config": {**decoder, "vocab_size": vocabulary},
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
        "projector_hidden_act": "gelu",
    }
    return Stated(config, "qwen2")


STATED: dict[str, Stated] = {
    "openai/clip-vit-large-patch14-336": Stated(_CLIP),
    "Qwen/Qwen2-0.5B-Instruct": Stated(_QWEN2_0_5B, "qwen2"),
    "Qwen/Qwen2-1.5B-Instruct": Stated(_QWEN2_1_5B, "qwen2"),
    "Qwen/Qwen2-7B-Instruct": Stated(_QWEN2_7B, "qwen2"),
    "lmsys/vicuna-7b-v1.5": Stated(_VICUNA_7B, "vicuna"),
    "llava-hf/llava-1.5-7b-hf": Stated({"model_type": "llava", **_LLAVA_VICUNA}, "vicuna"),
    "llava-hf/llava-v1.6-vicuna-7b-hf": Stated(
        {"model_type": "llava_next", "image_grid_pinpoints": _NEXT_PINPOINTS, **_LLAVA_VICUNA}, "vicuna"
    ),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": _onevision(_QWEN2_0_5B, 152000),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": _onevision(_QWEN2_7B, 152128),
    "OpenGVLab/InternVL3-1B-hf": Stated(
        {
            "model_type": "internvl",
            "vision_config": _INTERNVIT,
            "text_config": _INTERNVL3_1B,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
            "downsample_ratio": 0.5,
            "image_seq_length": 256,
            "projector_hidden_act": "gelu",
            "tie_word_embeddings": False,
        },
        "internvl",
    ),
}
"""By the name of a `Source`."""


def is_stated(spec: BackboneSpec) -> bool:
    """Whether the configurations of all that `spec` is made from stand here, with the sizes that it plans with.

    They do not where a backbone goes by a published name and means other weights, such as a test's.
    """
    if not spec.sources or any(source.name not in STATED for source in spec.sources):
        return False
    tower, decoder = STATED[spec.sources[0].name].tower, STATED[spec.sources[-1].name].decoder
    return (
        (tower["hidden_size"], tower["num_hidden_layers"]) == (spec.tower_width, spec.tower_depth)
        and _side(tower["image_size"]) == spec.image_px
        and (decoder["hidden_size"], decoder["num_hidden_layers"]) == (spec.decoder_width, spec.decoder_depth)
    )


def _side(size: int | list[int]) -> int:
    return size if isinstance(size, int) else size[0]
