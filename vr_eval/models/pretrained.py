"""Models of the field as LVLMs: whole LLaVA and InternVL checkpoints, and towers and decoders to put together.

A checkpoint comes in with its own projector at its own ratio: its logits are those of transformers' own classes.
Loading is transformers' `from_pretrained`, with its sharding, devices, quantisation and revisions; names of tensors are
mapped on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    InternVLProcessor,
    LlavaImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipVisionModel,
)

from vr_eval.catalog.backbone import BackboneSpec, Loading, Source
from vr_eval.errors import InputError, Problem
from vr_eval.methods.pixel_shuffle.module import PixelShuffle
from vr_eval.models.config import LVLMConfig, side_of
from vr_eval.models.generation import only_tokens
from vr_eval.models.hub import WHOLE, arguments_of, explained, pinned, torch_dtype
from vr_eval.models.internvl import internvl_tiling, reorder
from vr_eval.models.llava import Described, describe, renamings, tower_config
from vr_eval.models.lvlm import LVLM
from vr_eval.models.official_tensors import computed_anew
from vr_eval.models.processor import Processor, fitted, lvlm_processor, with_image_token, with_template
from vr_eval.models.tiling import scheme_of
from vr_eval.models.tiling.base import kept_settings

if TYPE_CHECKING:
    from vr_eval.models.random_weights import Drawing

_LISTED = 20


def load_pretrained(
    source: Source,
    loading: Loading | None = None,
    tower: Source | None = None,
    template: str | None = None,
    drawing: Drawing | None = None,
) -> tuple[LVLM, Processor]:
    """A LLaVA or InternVL checkpoint as an LVLM in eval mode, and its processor.

    Args:
        source: Hub id or folder, in the layout of transformers or in the original one.
        loading: How its weights are loaded; float32 on the CPU by default.
        tower: In place of the vision tower that an original checkpoint names.
        template: Chat template where the checkpoint brings none that shows images; by default that of its family.
        drawing: How to draw its weights where it has none; those of its projector are drawn on the CPU.

    Raises:
        InputError: It cannot be found or read, no chat template is known for it, or its tensors are not those of its
            configuration.
    """
    loading, source = loading or Loading(), pinned(source)
    content = config_of(source)
    described = describe(content, source, pinned(tower) if tower is not None else None)
    config = described.config
    processor = _processor(described, source, template)
    config.image_token_id = processor.image_token_id
    if isinstance(processor, InternVLProcessor):
        config.tiling = internvl_tiling(processor).row
    arguments = arguments_of(loading, WHOLE)
    if drawing is not None:
        parts = drawing.tower(config.vision_config, **arguments), drawing.decoder(config.text_config, **arguments)
        return LVLM(config, *parts).eval(), processor
    with explained(source):
        model, report = LVLM.from_pretrained(
            source.name,
            revision=source.revision,
            config=config,
            key_mapping=renamings(),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below, all of them
            **arguments,
        )
    model.generation_config = only_tokens(model.generation_config)
    # Else `save_pretrained` would write the names that these weights came under.
    model._weight_conversions = None
    _complete(model, report, described, source, loading)
    if isinstance(model.projector, PixelShuffle):
        reorder(model.projector)
    return model.eval(), processor


def named_tower(source: Source) -> Source | None:
    """The vision tower that a checkpoint of the original layout leaves elsewhere; None for one that has its own.

    Raises:
        InputError: The checkpoint cannot be found or read.
    """
    tower = config_of(pinned(source)).get("mm_vision_tower")
    return Source(tower) if isinstance(tower, str) else None


def config_of(source: Source) -> dict[str, Any]:
    """The config.json of a model, which may be any. Raises InputError: it cannot be found or read."""
    with explained(source, "the configuration"):
        content, _ = PreTrainedConfig.get_config_dict(source.name, revision=source.revision)
    if not content:
        raise InputError(Problem("there is no config.json here", source.name))
    return dict(content)


def load_parts(
    spec: BackboneSpec, loading: Loading | None = None, drawing: Drawing | None = None
) -> tuple[PreTrainedModel, PreTrainedModel, Processor]:
    """Tower, decoder and a processor (yet to be fitted to a ratio) of a backbone that is put together.

    Args:
        spec: The backbone.
        loading: How its weights are loaded; float32 on the CPU by default.
        drawing: How to draw its weights where there are none.

    Raises:
        InputError: A part cannot be found or read, or no chat template is known for the tokenizer.
    """
    assert spec.tower is not None
    assert spec.decoder is not None
    arguments = arguments_of(loading or Loading())
    source, seen = pinned(spec.decoder), pinned(spec.tower)
    with explained(source, "the decoder"):
        config = AutoConfig.from_pretrained(source.name, revision=source.revision)
    # What is small comes first: nothing heavy is loaded for a tokenizer that cannot be used.
    tokenizer = _tokenizer(source, config.model_type, spec.template)
    images = _image_processor(seen)
    if spec.tiling is None:
        processor: Processor = lvlm_processor(images, tokenizer, spec.patch_px, 1)
    else:
        processor = scheme_of(spec.tiling, spec.image_px).processor(images, tokenizer)
    if drawing is not None:
        tower, decoder = drawing.tower(tower_config(seen), **arguments), drawing.decoder(config, **arguments)
    else:
        tower = load_tower(seen, **arguments)
        with explained(source, "the decoder"):
            decoder = AutoModelForCausalLM.from_pretrained(source.name, revision=source.revision, **arguments)
    return tower, decoder, processor


def load_tower(source: Source, config: PreTrainedConfig | None = None, **arguments: Any) -> PreTrainedModel:
    """A CLIP or SigLIP vision model, taken out of a model of images and text if need be.

    Raises:
        InputError: It cannot be found or read.
    """
    config = config or tower_config(source)
    family = CLIPVisionModel if isinstance(config, CLIPVisionConfig) else SiglipVisionModel
    with explained(source, "the vision tower"):
        model, report = family.from_pretrained(
            source.name, revision=source.revision, config=config, output_loading_info=True, **arguments
        )
    # What is unexpected is the text model beside it, or a layer that is left out.
    _refuse({"missing": report["missing_keys"]}, source, "the vision tower")
    return model.eval()


def _processor(described: Described, source: Source, template: str | None) -> Processor:
    vision, decoder = described.config.vision_config, described.config.text_config.model_type
    grid = described.config.shapes.grid
    if described.tower is None:
        with explained(source, "the processor"):
            processor = AutoProcessor.from_pretrained(source.name, revision=source.revision)
        if not isinstance(processor, Processor):
            hint = "The folder needs processor_config.json, preprocessor_config.json and the tokenizer's files."
            given = type(processor).__name__
            raise InputError(Problem("there is no processor for images and text", source.name, given=given, hint=hint))
        with_template(processor, source, decoder, template)
        return fitted(processor, side_of(vision.patch_size), grid, described.config.ratio)
    tokenizer = _tokenizer(source, decoder, template)
    images, tiling = _image_processor(described.tower), described.config.tiles
    if tiling is not None:
        tiled = scheme_of(tiling, vision.image_size).processor(images, tokenizer)
        return fitted(tiled, vision.patch_size, grid, 1)
    # Original models pad an image to a square before they resize it.
    square = {"height": vision.image_size, "width": vision.image_size}
    edge = {"shortest_edge": vision.image_size}
    padded = LlavaImageProcessor(do_pad=True, size=edge, crop_size=square, **kept_settings(images))
    return lvlm_processor(padded, tokenizer, vision.patch_size, 1)


def _tokenizer(source: Source, decoder: str, template: str | None) -> PreTrainedTokenizerBase:
    with explained(source, "the tokenizer"):
        tokenizer = with_image_token(AutoTokenizer.from_pretrained(source.name, revision=source.revision))
    with_template(tokenizer, source, decoder, template)
    return tokenizer


def _image_processor(tower: Source) -> Any:
    with explained(tower, "the image processor"):
        return AutoImageProcessor.from_pretrained(tower.name, revision=tower.revision)


def _complete(model: LVLM, report: Mapping[str, Any], described: Described, source: Source, loading: Loading) -> None:
    """Load the tower where the checkpoint has none; refuse what is missing, unexpected or misshapen."""
    missing = set(report["missing_keys"])
    tower = {f"vision_tower.{name}" for name in model.vision_tower.state_dict()}
    if described.tower is not None and missing >= tower:
        device = model.device
        config = described.config.vision_config
        model.vision_tower = load_tower(described.tower, config, dtype=torch_dtype(loading)).to(device)
        missing -= tower
    unexpected = {name for name in report["unexpected_keys"] if not computed_anew(name)}
    # Each as (name, its shape, the shape that it should have).
    misshapen = {
        f"{name} ({_words(given)} in place of {_words(right)})" for name, given, right in report["mismatched_keys"]
    }
    _refuse({"missing": missing, "unexpected": unexpected, "misshapen": misshapen}, source, "the checkpoint")


def _refuse(wrong: Mapping[str, Any], source: Source, what: str) -> None:
    problems = []
    for kind, names in wrong.items():
        ordered = sorted(map(str, names))
        problems += [Problem(f"{what}: {kind} tensor", source.name, key=name) for name in ordered[:_LISTED]]
        if len(ordered) > _LISTED:
            problems.append(Problem(f"{what}: {len(ordered) - _LISTED} more {kind} tensors", source.name))
    if problems:
        raise InputError(problems)


def _words(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def check_sizes(spec: BackboneSpec, config: LVLMConfig, source: Source) -> None:
    """Refuse weights of other sizes than `spec` plans with.

    Raises:
        InputError: With every size that differs.
    """
    shapes = config.shapes
    found: dict[str, object] = {
        "grid": shapes.grid,
        "tower_width": shapes.tower_width,
        "tower_depth": shapes.tower_depth,
        "select_layer": shapes.select_layer,
        "decoder_width": shapes.decoder_width,
        "decoder_depth": shapes.decoder_depth,
        "tiling": config.tiles,
        "image_px": config.image_px,
        "patch_px": side_of(config.vision_config.patch_size),
    }
    if spec.checkpoint is not None:
        found |= {"own_projector": config.projector, "own_ratio": config.ratio}
    problems = [
        Problem(f"these are not the weights of {spec.name}", source.name, key=name, given=given, allowed=str(right))
        for name, given in found.items()
        if given != (right := getattr(spec, name))
    ]
    if problems:
        raise InputError(problems)
