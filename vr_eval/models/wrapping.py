"""Our methods in a LLaVA or InternVL model of transformers that is loaded already, around its own weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from vr_eval.catalog.backbone import Source
from vr_eval.catalog.fields import checked
from vr_eval.errors import InputError, Problem, nearest
from vr_eval.methods.registry import METHODS, NONE, Seam, of_seam
from vr_eval.methods.together import clashes
from vr_eval.models.config import LVLMConfig
from vr_eval.models.generation import only_tokens
from vr_eval.models.internvl import reorder
from vr_eval.models.llava import describe
from vr_eval.models.lvlm import LVLM

SEAMS: tuple[Seam, ...] = ("image", "refusion", "pruning")
"""What can be put into a model that has its projector."""


def wrap(
    model: PreTrainedModel,
    pruning: str | None = None,
    refusion: str | None = None,
    image: str | None = None,
    **options: Any,
) -> LVLM:
    """`model` with methods in its seams: an LVLM around the same weights, in eval mode; none are copied.

    With no method its logits are those of `model`, and either can be used: they share tower, projector and decoder.
    (InternVL's projector is copied: its channels stand in another order here.) A refusion method comes untrained, and
    most begin as if they were not there. Prompts with their image tokens, and pixels, come from the model's own
    processor, or from `Loaded.ask`, which counts the tokens that an image method leaves. InternVL's tiles are taken one
    by one.

    Args:
        model: LlavaForConditionalGeneration, LlavaNext..., LlavaOnevision... or InternVLForConditionalGeneration.
        pruning: The name of a pruning method.
        refusion: The name of a refusion method.
        image: The name of a method of the image seam.
        options: Options of these, by name; ``**{"fastv.layer": 3}`` where two methods know the name.

    Raises:
        InputError: another model, an unknown method or option, or one that does not fit the model.
    """
    source = Source(type(model).__name__)
    config = describe(model.config.to_dict(), source).config
    parts: Any = model.base_model
    decoder = _with_head(parts.language_model, model.get_output_embeddings())
    # The parts' own configurations, which say how their attention is computed.
    config.vision_config, config.text_config = parts.vision_tower.config, decoder.config
    config.refusion, config.pruning, config.image = refusion or NONE, pruning or NONE, image or NONE
    config.options = _options(config, options, source.name)
    wrapped = LVLM(config, parts.vision_tower, decoder)
    _take_projector(wrapped, parts)
    wrapped.refusion = wrapped.refusion.to(model.device, model.dtype) if wrapped.refusion is not None else None
    if model.generation_config is not None:
        wrapped.generation_config = only_tokens(model.generation_config)
    return wrapped.eval()


def _with_head(decoder: PreTrainedModel, head: nn.Module | None) -> PreTrainedModel:
    """A causal language model of a decoder and its head."""
    with torch.device("meta"):  # its class, with no weights of its own
        whole: PreTrainedModel = AutoModelForCausalLM.from_config(decoder.config)
    setattr(whole, whole.base_model_prefix, decoder)
    whole.set_output_embeddings(head)
    left = [name for name, tensor in whole.state_dict(keep_vars=True).items() if tensor.is_meta]
    if left:
        raise InputError(Problem("this decoder has parts that are not known here", type(whole).__name__, key=left[0]))
    return whole


def _take_projector(wrapped: LVLM, parts: Any) -> None:
    """Put the projector's own parameters, and that of a newline, in the places of `wrapped`'s new ones."""
    projector: Any = wrapped.projector
    theirs = parts.multi_modal_projector
    pairs = [(projector.mlp[0], theirs.linear_1), (projector.mlp[2], theirs.linear_2)]
    if wrapped.config.projector == "pixel_shuffle":
        pairs.append((projector.norm, theirs.layer_norm))
    for ours, given in pairs:
        ours.weight, ours.bias = given.weight, given.bias
    if wrapped.image_newline is not None:
        wrapped.image_newline = parts.image_newline
    if wrapped.config.projector == "pixel_shuffle":
        projector.load_state_dict({name: value.clone() for name, value in projector.state_dict().items()}, assign=True)
        reorder(projector)


def _options(config: LVLMConfig, given: Mapping[str, Any], file: str) -> dict[str, dict[str, Any]]:
    """Every option of the methods that `config` names, as a configuration holds them."""
    names = []
    problems = []
    for seam in SEAMS:
        name, known = getattr(config, seam), of_seam(seam)
        if name in known:
            names.append(name)
        elif name != NONE:
            close = nearest(name, known)
            allowed = ", ".join(known)
            problems.append(Problem("unknown method", file, key=seam, given=name, allowed=allowed, nearest=close))
    chosen: dict[str, dict[str, Any]] = {name: {} for name in names}
    fields = {name: [field.name for field in dataclasses.fields(METHODS[name].options)] for name in names}
    for key, value in given.items():
        owner, _, option = key.rpartition(".")
        owners = [name for name in names if option in fields[name] and owner in ("", name)]
        if len(owners) != 1:
            options = [option for name in names for option in fields[name]]
            message = "several methods have this option: say METHOD.OPTION"
            message = message if owners else "no method here has this option"
            problems.append(Problem(message, file, key=key, allowed=", ".join(options), nearest=nearest(key, options)))
            continue
        try:
            chosen[owners[0]][option] = checked(METHODS[owners[0]].options, option, value)
        except ValueError as error:
            problems.append(Problem("this value does not fit", file, key=key, given=value, allowed=str(error)))
    if problems:
        raise InputError(problems)
    return _resolved(config, chosen, file)


def _resolved(config: LVLMConfig, chosen: Mapping[str, Mapping[str, Any]], file: str) -> dict[str, dict[str, Any]]:
    """With every default spelled out. Raises InputError: an option does not fit the model or another method."""
    shapes = config.shapes
    given = {name: dataclasses.replace(METHODS[name].options(), **values) for name, values in chosen.items()}
    problems = [
        Problem(fault.message, file, key=f"{name}.{fault.option}", allowed=fault.allowed)
        for name, options in given.items()
        for fault in (*options.faults(shapes), *options.ratio_faults(shapes, config.ratio))
    ]
    if not problems:
        given = {name: options.resolve(shapes) for name, options in given.items()}
        whole = {config.projector: METHODS[config.projector].options(), **given}
        found = clashes(whole, shapes.grid, config.ratio)
        problems = [Problem(clash.message, file, key=clash.key, allowed=clash.allowed) for clash in found]
    if problems:
        raise InputError(problems)
    return {name: dataclasses.asdict(options) for name, options in given.items()}
