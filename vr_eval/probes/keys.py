"""What a tap's features depend on, as one key: the part of the model in front of it, the images and the prompt.

The keys form a chain along the forward pass. Cells that share weights and methods up to a tap share its key, whatever
follows; a model that was trained again has other keys, so its features are never mistaken for old ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import nn
from transformers import BaseImageProcessor

from vr_eval.models.features import tower_id
from vr_eval.models.lvlm import LVLM
from vr_eval.models.methods import computed_by, image_seam
from vr_eval.probes.tapnames import OUT, PRUNING, REFUSION, decoder_tap, tower_tap
from vr_eval.probes.taps import tower_levels_of

PROBE_VERSION = 2
"""Raised by hand when a tap or a pool computes something else."""

_UNRELATED = ("_name_or_path", "architectures", "dtype", "transformers_version")


def tap_keys(model: LVLM, processor: BaseImageProcessor, prompt: Sequence[int], images: str) -> dict[str, str]:
    """Tap to 64 hex digits, for every tap of `model`; `images` names the set of images."""
    config = model.config
    start = _digest("start", PROBE_VERSION, images, tower_id(model, processor), model.grid, str(model.dtype))
    if image_seam(config):
        start = _digest(start, "image", image_seam(config))
    states = tower_levels_of(model)
    keys = {tower_tap(level): _digest(start, str(state)) for level, state in enumerate(states)}
    read = [str(states[level]) for level in model.projector.levels]
    keys[OUT] = key = _digest(start, OUT, read)
    key = _digest(key, "projector", config.projector, config.ratio, computed_by(config.projector, config))
    keys[decoder_tap(-1)] = key = _digest(key, state_digest(model.projector))
    text = {k: v for k, v in config.text_config.to_dict().items() if k not in _UNRELATED}
    # Behind the projector, what the tokens meet: text in the same sequence, and layers of this shape.
    stream = _digest(key, "decoder", list(prompt), text, state_digest(model.get_input_embeddings()))
    layers = list(model.decoder.layers)
    for number in range(-1, len(layers)):
        if number >= 0:
            keys[decoder_tap(number)] = stream = _digest(stream, state_digest(layers[number]))
        if model.refusion is not None and number in model.refusion.layers:
            stream = _refused(model, stream)
            keys[decoder_tap(number) + REFUSION] = stream
        if model.pruning is not None and number + 1 in model.pruning.places:
            stream = _digest(stream, "pruning", config.pruning, computed_by(config.pruning, config))
            keys[decoder_tap(number) + PRUNING] = stream
    return keys


def state_digest(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and values of a module's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _refused(model: LVLM, stream: str) -> str:
    assert model.refusion is not None
    levels = [str(level) for level in model.feature_levels]
    name = model.config.refusion
    computed = computed_by(name, model.config)
    return _digest(stream, "refusion", name, computed, levels, state_digest(model.refusion))


def _digest(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
