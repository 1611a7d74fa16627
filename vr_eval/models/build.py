"""From a cell to a model that can be trained: the backbone's weights with the cell's fresh methods in its seams."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    set_seed,
)

from vr_eval.catalog.backbone import BackboneSpec, Loading
from vr_eval.config.cell import Cell
from vr_eval.config.identity import checkpoint_id
from vr_eval.errors import InputError, Problem
from vr_eval.models.checkpoints import load_checkpoint
from vr_eval.models.config import LVLMConfig
from vr_eval.models.generation import only_tokens
from vr_eval.models.lvlm import LVLM
from vr_eval.models.processor import Processor, fitted, lvlm_processor
from vr_eval.models.tiling import scheme_of

if TYPE_CHECKING:
    from vr_eval.models.random_weights import Drawing

TOWER, DECODER, TOKENIZER = "tower", "decoder", "tokenizer"
"""Folders of a backbone's weights; the image processor lies beside the tower."""


def assemble(config: LVLMConfig, tower: PreTrainedModel, decoder: PreTrainedModel) -> LVLM:
    """An LVLM around existing parts; only the methods' parameters are new.

    They are drawn behind those of a tower and a decoder that are thrown away: `LVLM(config, tower, decoder)` would draw
    others from the same seed, and the embedded checkpoints could not be trained again as they were.
    """
    model = LVLM(config)
    model.vision_tower = tower
    model.language_model = decoder
    model.tie_weights()
    return model


def spelled_out(cell: Cell) -> dict[str, dict[str, Any]]:
    """All options of all methods of `cell`, as a model's configuration holds them."""
    return {method.name: dataclasses.asdict(cell.resolved(method.name)) for method in cell.methods}


def lvlm_config(
    cell: Cell, tower: PreTrainedModel, decoder: PreTrainedModel, image_token_id: int, **own: Any
) -> LVLMConfig:
    """The configuration of `cell` around parts of its backbone, every option spelled out."""
    return LVLMConfig(
        tower.config,
        decoder.config,
        projector=cell.projector,
        refusion=cell.refusion,
        pruning=cell.pruning,
        image=cell.image,
        ratio=cell.ratio,
        options=spelled_out(cell),
        select_layer=cell.spec.select_layer,
        image_token_id=image_token_id,
        backbone=cell.backbone,
        checkpoint_id=checkpoint_id(cell),
        tiling=cell.spec.tiling.row if cell.spec.tiling else None,
        **own,
    )


def set_training_free(model: LVLM, cell: Cell) -> None:
    """Put the cell's pruning and image methods in: without parameters, so that cells with others share a checkpoint.

    How many image tokens a prompt needs is the model's to say from then on (`tokens_per_image`): the checkpoint's
    processor counts those of the model without such methods.

    Raises:
        InputError: the model is the backbone's own checkpoint, and of other sizes than the backbone states.
    """
    if cell.pretrained:
        from vr_eval.models.pretrained import check_sizes

        check_sizes(cell.spec, model.config, cell.spec.sources[-1])
    config = model.config
    config.pruning, config.image = cell.pruning, cell.image
    config.options = spelled_out(cell)
    model.fill_training_free()


def build_lvlm(
    cell: Cell,
    weights: Path | None = None,
    loading: Loading | None = None,
    device: torch.device | str = "cpu",
) -> tuple[LVLM, Processor]:
    """The untrained model of `cell`, its methods initialised from `cell.seed`, and its processor.

    On a whole checkpoint, the projector starts from the checkpoint's, or from its MLP, where it has one like it.

    Args:
        cell: what is built; with `random_weights`, tower and decoder are drawn and nothing is fetched.
        weights: folder in place of the embedded backbone's.
        loading: how weights of a backbone from elsewhere are loaded.
        device: where random weights are drawn.

    Raises:
        InputError: the backbone's weights are not there, cannot be read, or are of other sizes than it states.
    """
    if cell.spec.sources:
        return _on_loaded_parts(cell, loading, device)
    folder = weights or cell.spec.weights
    if folder is None or not (folder / DECODER).is_dir():
        hint = "vr-eval micro build makes the weights of the embedded backbone"
        raise InputError(Problem(f"backbone {cell.backbone} has no weights", file=str(folder), hint=hint))
    if cell.random_weights:
        with _without_weights(cell.spec, loading, device) as (_, drawing):
            tower = drawing.tower(AutoConfig.from_pretrained(folder / TOWER), dtype=torch.float32)
            decoder = drawing.decoder(AutoConfig.from_pretrained(folder / DECODER), dtype=torch.float32)
    else:
        tower = AutoModel.from_pretrained(folder / TOWER, dtype=torch.float32)
        decoder = AutoModelForCausalLM.from_pretrained(folder / DECODER, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER)
    patch_px = cell.spec.patch_px * cell.spec.grid // cell.grid  # the image seam comes after the processor
    processor = lvlm_processor(AutoImageProcessor.from_pretrained(folder / TOWER), tokenizer, patch_px, cell.ratio)
    set_seed(cell.seed)
    model = assemble(lvlm_config(cell, tower, decoder, processor.image_token_id), tower, decoder)
    model.generation_config = only_tokens(decoder.generation_config)
    return model, processor


def cell_model(
    cell: Cell, checkpoint: Path | None, loading: Loading | None = None, device: torch.device | str = "cpu"
) -> tuple[LVLM, Processor]:
    """The model of `cell` with all its methods, in eval mode: that of `checkpoint`; untrained where it is None.

    Raises:
        InputError: it cannot be loaded or built.
    """
    if checkpoint is None:
        model, processor = build_lvlm(cell, loading=loading, device=device)
        return model.eval(), processor
    model, processor = load_checkpoint(checkpoint, expect=checkpoint_id(cell), loading=loading)
    set_training_free(model, cell)
    return model, processor


@contextmanager
def _without_weights(
    spec: BackboneSpec, loading: Loading | None, device: torch.device | str
) -> Iterator[tuple[BackboneSpec, Drawing]]:
    """What stands in for `spec` and draws its weights."""
    from vr_eval.models.random_weights import Drawing, check_drawable, published_without_weights

    check_drawable(spec, loading or Loading())
    with published_without_weights(spec) as local:
        yield local, Drawing(device)


def _on_loaded_parts(cell: Cell, loading: Loading | None, device: torch.device | str) -> tuple[LVLM, Processor]:
    if not cell.random_weights:
        return _on_parts(cell, cell.spec, loading)
    with _without_weights(cell.spec, loading, device) as (spec, drawing):
        return _on_parts(cell, spec, loading, drawing)


def _on_parts(
    cell: Cell, spec: BackboneSpec, loading: Loading | None, drawing: Drawing | None = None
) -> tuple[LVLM, Processor]:
    """`spec`: the cell's backbone, or what stands in for it while its weights are drawn."""
    # Imported here, so that the embedded backbone does not wait for what it never loads.
    from vr_eval.models.pretrained import check_sizes, load_parts, load_pretrained

    base: LVLM | None = None
    if spec.checkpoint is not None:
        base, processor = load_pretrained(spec.checkpoint, loading, template=spec.template, drawing=drawing)
        tower, decoder = base.vision_tower, base.language_model
    else:
        tower, decoder, processor = load_parts(spec, loading, drawing)
    marks = scheme_of(spec.tiling, spec.image_px).mark_ids(processor.tokenizer) if spec.tiling else None
    config = lvlm_config(cell, tower, decoder, processor.image_token_id, mark_token_ids=marks)
    check_sizes(spec, config if base is None else base.config, spec.sources[-1])
    set_seed(cell.seed)
    model = LVLM(config, tower, decoder)
    model.generation_config = only_tokens((base or decoder).generation_config)
    if base is not None:
        _start_from(model, base)
    side = cell.grid  # the image seam comes after the processor
    return model.to(decoder.dtype), fitted(processor, spec.patch_px * spec.grid // side, side, cell.ratio)


def _start_from(model: LVLM, base: LVLM) -> None:
    """Take over what `base` learned that `model` has too: its projector, or the MLP on patches, and the newline."""
    if model.image_newline is not None and base.image_newline is not None:
        model.image_newline = base.image_newline
    learned: nn.Module | None
    own: nn.Module | None
    learned, own = base.projector, model.projector
    if (base.config.projector, base.config.ratio) != (model.config.projector, model.config.ratio):
        learned, own = base.projector.patch_mlp(), model.projector.patch_mlp()
    if learned is None or own is None:
        return
    shapes = [{name: value.shape for name, value in part.state_dict().items()} for part in (learned, own)]
    if shapes[0] == shapes[1]:
        own.load_state_dict(learned.state_dict())
