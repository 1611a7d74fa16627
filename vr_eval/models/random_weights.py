"""Models of true shape without weights: what a checkpoint publishes, made here, and weights drawn from a seed.

A backbone's sources become folders of the published layout that lack the weights alone: configurations as they are
stated (catalog/stated.py), a tokenizer and processors of their kind. What is read from them goes through the same code
as real ones; where that would load weights, these are drawn, on the device and in the dtype that they are wanted in, so
that no second copy of them ever exists.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AddedToken,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

from vr_eval.catalog.backbone import BackboneSpec, Loading, Source
from vr_eval.catalog.chat_templates import IMAGE, TEMPLATES
from vr_eval.catalog.stated import STATED, is_stated
from vr_eval.errors import InputError, Problem
from vr_eval.models.made_tokenizers import write_tokenizer

SEED = 0
"""Of tower and decoder: cells with other seeds start from the same ones, as they do from a checkpoint (ours)."""


@dataclass(frozen=True)
class Drawing:
    """How weights are drawn.

    Attributes:
        device: Where: a model that is to run on a GPU never lies on the CPU.
    """

    device: torch.device | str = "cpu"

    def tower(self, config: PreTrainedConfig, **arguments: Any) -> PreTrainedModel:
        """A vision tower; `arguments` are those of `from_config`."""
        return self._draw(AutoModel, config, arguments)

    def decoder(self, config: PreTrainedConfig, **arguments: Any) -> PreTrainedModel:
        """A decoder with its language-modelling head."""
        return self._draw(AutoModelForCausalLM, config, arguments)

    def _draw(self, family: Any, config: PreTrainedConfig, arguments: dict[str, Any]) -> PreTrainedModel:
        set_seed(SEED)
        with torch.device("meta"):  # else torch's own initialisation would be drawn too, and thrown away
            model: PreTrainedModel = family.from_config(config, **arguments)
        model.to_empty(device=self.device)
        model.tie_weights()
        model.initialize_weights()
        return model.eval()


def check_drawable(spec: BackboneSpec, loading: Loading) -> None:
    """Whether the model of `spec` can be made without its weights.

    Raises:
        InputError: Its configuration is not stated, or `loading` asks for what only loaded weights can have.
    """
    if spec.sources and not is_stated(spec):
        unknown = [source.name for source in spec.sources if source.name not in STATED] or [spec.name]
        problem = Problem(
            "its shapes are not stated, so its weights cannot be drawn",
            key="--random-weights",
            given=", ".join(unknown),
            allowed=", ".join(STATED),
        )
        raise InputError(problem)
    for key, given in (("--bits", loading.bits), ("--device-map", loading.device_map)):
        if given is not None:
            raise InputError(Problem("random weights are drawn on one device, as they are", key=key, given=given))


@contextmanager
def published_without_weights(spec: BackboneSpec) -> Iterator[BackboneSpec]:
    """`spec`, made from folders that hold all that its sources publish but the weights; they are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="vr-eval-") as root:
        made: dict[str, Any] = {}
        for part in ("checkpoint", "tower", "decoder"):
            source: Source | None = getattr(spec, part)
            if source is not None:
                made[part] = Source(str(_write(source.name, Path(root) / part, spec)))
        yield replace(spec, **made)


def _write(name: str, folder: Path, spec: BackboneSpec) -> Path:
    stated = STATED[name]
    folder.mkdir()
    if stated.tokenizer:
        write_tokenizer(stated.tokenizer, folder)
    if "vision_config" in stated.config:
        _processor(stated.config["model_type"], AutoTokenizer.from_pretrained(folder), spec).save_pretrained(folder)
    elif not stated.tokenizer:
        _clip_images(spec).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(dict(stated.config), indent=2))
    return folder


def _clip_images(spec: BackboneSpec) -> CLIPImageProcessor:
    square = {"height": spec.image_px, "width": spec.image_px}
    return CLIPImageProcessor(size={"shortest_edge": spec.image_px}, crop_size=square)


def _processor(model_type: str, tokenizer: PreTrainedTokenizerBase, spec: BackboneSpec) -> Any:
    """The processor of a whole checkpoint, put together as transformers' own conversions of those models do it."""
    square = {"height": spec.image_px, "width": spec.image_px}
    points = [list(point) for point in spec.tiling.pinpoints] if spec.tiling else []
    if model_type == "internvl":
        assert spec.tiling is not None
        return InternVLProcessor(
            GotOcr2ImageProcessor(size=square, max_patches=spec.tiling.most_tiles(spec.image_px)),
            tokenizer,
            InternVLVideoProcessor(size=square),
            image_seq_length=spec.grid**2 // spec.own_ratio,
            chat_template=tokenizer.chat_template,
        )
    if model_type == "llava_onevision":
        _add(tokenizer, IMAGE, "<video>")
        tokenizer.pad_token = "<|endoftext|>"
        return LlavaOnevisionProcessor(
            LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=points),
            tokenizer,
            LlavaOnevisionVideoProcessor(),
            num_image_tokens=spec.grid**2,
            vision_feature_select_strategy="full",
            chat_template=TEMPLATES["chatml"].jinja,
        )
    _add(tokenizer, IMAGE)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    counted = {
        "patch_size": spec.patch_px,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": TEMPLATES["vicuna"].jinja,
    }
    if model_type == "llava":
        return LlavaProcessor(_clip_images(spec), tokenizer, **counted)
    images = LlavaNextImageProcessor(
        size={"shortest_edge": spec.image_px}, crop_size=square, image_grid_pinpoints=points
    )
    return LlavaNextProcessor(images, tokenizer, **counted)


def _add(tokenizer: PreTrainedTokenizerBase, *tokens: str) -> None:
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
