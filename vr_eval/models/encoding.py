"""Images through the vision tower: the plain image, its high-resolution crops, and the image with stacks in the tower.

Crops are cut from processed pixels, not from the image file: pixels are what training, evaluation and a plain
``generate(pixel_values=...)`` all have, so there is one way from an image to its features. Pixels of the tower's own
size are enlarged by bicubic interpolation, which adds no information; larger pixels give their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vr_eval.methods.deepstack.module import sample_stacks, stitch
from vr_eval.methods.levels import CropLevel, Level, StackedLevel, split
from vr_eval.models.config import side_of


def encode(tower: PreTrainedModel, pixels: Tensor, levels: Sequence[Level]) -> list[Tensor]:
    """Hidden states of the tower, class token dropped.

    Each view of the image (plain, one crop, stacked) takes a pass of its own, so that what it gives does not depend on
    which others are asked for.

    Args:
        tower: a Hugging Face vision model with an `encoder`, of square images.
        pixels: ``(M, 3, height, width)``, of the tower's size; larger ones only where crops are asked for.
        levels: which hidden states.

    Returns:
        One ``(M, G*G, D)`` per level.

    Raises:
        ValueError: pixels of another size than the tower's where only the plain image is asked for.
    """
    views = list(dict.fromkeys(split(level)[0] for level in levels))
    # Where only the plain image is asked for, the tower itself refuses another size.
    size = side_of(tower.config.image_size)
    plain = pixels if views == [None] else resized(pixels, size)
    # Enlarged once for all crops that are cut from it.
    enlarged = {side: resized(pixels, side * size) for side in {v.side for v in views if v}}
    found: dict[Level, Tensor] = {}
    for view in views:
        states = _through(tower, enlarged, plain, view)
        found |= {level: states[split(level)[1]] for level in levels if split(level)[0] == view}
    return [found[level] for level in levels]


def _through(
    tower: PreTrainedModel, enlarged: Mapping[int, Tensor], plain: Tensor, view: CropLevel | StackedLevel | None
) -> list[Tensor]:
    """Every hidden state of one pass."""
    if view is None:
        return hidden_states(tower, plain)
    if isinstance(view, CropLevel):
        size = side_of(tower.config.image_size)
        return hidden_states(tower, crop(enlarged[view.side], view.side, view.row, view.column, size))
    stacks = tower_stacks(tower, enlarged[view.side], view.side, view.start)
    with added(layers_of(tower), {view.start + j * view.interval: stack for j, stack in enumerate(stacks)}):
        return hidden_states(tower, plain)


def hidden_states(tower: PreTrainedModel, pixels: Tensor, interpolate: bool = False) -> list[Tensor]:
    """Every hidden state ``(M, G*G, D)``, embeddings first, of pixels ``(M, 3, side, side)``.

    `side` is the tower's own unless position embeddings are interpolated; G is side / patch size, rounded down.
    """
    # Said only where it is needed: not every tower can interpolate.
    positions = {"interpolate_pos_encoding": True} if interpolate else {}
    out = tower(pixels.to(tower.dtype), output_hidden_states=True, **positions)
    cells = (pixels.shape[-1] // side_of(tower.config.patch_size)) ** 2
    return [hidden[:, -cells:] for hidden in out.hidden_states]


def crop(pixels: Tensor, side: int, row: int, column: int, size: int) -> Tensor:
    """One of side x side crops of pixels ``(M, 3, height, width)``, enlarged if need be; ``(M, 3, size, size)``."""
    high = resized(pixels, side * size)
    return high[..., row * size : (row + 1) * size, column * size : (column + 1) * size]


def resized(pixels: Tensor, size: int) -> Tensor:
    """``(M, 3, height, width)`` to ``(M, 3, size, size)`` by bicubic interpolation; of that size already, as they are.

    What the interpolation overshoots is cut off at the darkest and lightest value of each image and channel, as 8-bit
    pixels would cut it at 0 and 255.
    """
    if pixels.shape[-2:] == (size, size):
        return pixels
    made = pixels.float()  # there is no kernel for half precision
    darkest, lightest = made.amin((-2, -1), keepdim=True), made.amax((-2, -1), keepdim=True)
    # As PIL does it, which resizes images for the official model: its kernel (that of antialias), rows before columns,
    # each cut off on its own.
    for shape in ((made.shape[-2], size), (size, size)):
        made = nn.functional.interpolate(made, shape, mode="bicubic", antialias=True).clamp(darkest, lightest)
    return made.to(pixels.dtype)


def tower_stacks(tower: PreTrainedModel, pixels: Tensor, side: int, start: int) -> Tensor:
    """The stacks ``(side**2, M, G*G, D)`` of DeepStack-V: 2d sampling of hidden state `start` of the crops."""
    places = [(row, column) for row in range(side) for column in range(side)]
    size = side_of(tower.config.image_size)
    crops = [hidden_states(tower, crop(pixels, side, *place, size))[start] for place in places]
    return sample_stacks(stitch(torch.stack(crops, dim=1), side, side), side, side)


def layers_of(tower: PreTrainedModel) -> nn.ModuleList:
    """The layers of a tower, which InternVL's calls by another name."""
    encoder: Any = tower.encoder
    layers: nn.ModuleList = encoder.layers if hasattr(encoder, "layers") else encoder.layer
    return layers


@contextmanager
def added(layers: nn.ModuleList, stacks: Mapping[int, Tensor]) -> Iterator[None]:
    """Until its end, add ``stacks[k]`` ``(M, cells, D)`` to the last `cells` tokens before layer k.

    The hooks are removed whatever happens inside.
    """
    handles = []
    try:
        for layer, stack in stacks.items():
            handles.append(layers[layer].register_forward_pre_hook(_adding(stack), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(stack: Tensor) -> Any:
    def before_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Towers differ in how they hand the hidden states to a layer.
        given = args[0] if args else kwargs["hidden_states"]
        others = given.shape[1] - stack.shape[1]  # a class token stands before the patches
        changed = given + nn.functional.pad(stack, (0, 0, others, 0))
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    return before_layer
