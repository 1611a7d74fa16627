"""A whole model with Vision Remember, walked through by hand: one sample at a time, one layer after the other.

Tower and decoder are Hugging Face's and the projector is the model's own; everything between them (where tokens stand,
what padding is dropped, what is text and what an answer, when a block acts) is done here a second time, with loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlavaNextImageProcessor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from tests.llava import NEXT_POINTS, image
from tests.methods.reference_vision_remember import Definition, block, guide_of
from vr_eval.methods.base import VisionFeatures
from vr_eval.models.lvlm import LVLM
from vr_eval.testing.tiny import IMAGE, SIDE, batch, tiny_lvlm

POINTS = [[y * 2, x * 2] for y, x in NEXT_POINTS]
"""For the tower of vr_eval.testing.tiny."""
ANYRES = {"pinpoints": POINTS, "limit": None, "lone": False}
LEVELS = (1, 2, 4)
Size = tuple[int, int]
SAMPLES: list[list[int | Size]] = [
    [10, (40, 120), 11, 12],
    [13, (150, 90), (16, 16), 14, 15, 80, 81, 16, 17],
    [18, 19, 20],
    [(1, 200), 21, 22, 23],
    [(130, 140), 82, 83],
]
"""Text tokens and images by height and width: several, none, an answer in between, tiles of padding alone (1 x 200)."""
ANSWERS = range(80, 90)
"""Supervised tokens. Those of the instruction are all that stand before the first one and are of no image."""
CHOSEN: list[tuple[int, dict[str, Any]]] = [
    (4, {}),
    (4, {"fusion": "last", "halo": 1, "text_guide": "last"}),
    (9, {"fusion": "per_level", "order": "self_first", "ffn": True}),
    (4, {"scope": "global", "text_guide": "none", "order": "self_first", "layers": (0, 1, 2)}),
]
"""Compression ratios and options."""


def tiles_of(size: Size, tiled: bool) -> Tensor:
    """The pixels of an image: ``(tiles, 3, SIDE, SIDE)``, the base view first; of a model without tiles, that alone."""
    square = {"height": SIDE, "width": SIDE}
    reader = LlavaNextImageProcessor(size={"shortest_edge": SIDE}, crop_size=square, image_grid_pinpoints=POINTS)
    pixels: Tensor = reader([image(size, seed=sum(size))], return_tensors="pt")["pixel_values"][0].double()
    return pixels if tiled else pixels[:1]


def standing(size: Size, side: int, tiled: bool) -> list[tuple[int, int] | None]:
    """Who stands where, of one image: tiles with the place in them, None at a newline."""
    found: list[tuple[int, int] | None] = [(0, place) for place in range(side * side)]
    if not tiled:
        return found
    rows, columns = get_anyres_image_grid_shape(size, POINTS, SIDE)
    height, width = rows * side, columns * side
    top = left = 0
    if size[1] / size[0] > width / height:  # padded above and below
        top = (height - int(size[0] * (width / size[1]))) // 2
    else:
        left = (width - int(size[1] * (height / size[0]))) // 2
    for y in range(top, height - top):
        for x in range(left, width - left):
            tile = 1 + y // side * columns + x // side
            found.append((tile, y % side * side + x % side))
        found.append(None)
    return found


def walked(model: LVLM, definition: Definition, sample: Sequence[int | Size]) -> Tensor:
    """The logits of one sample, ``(S, vocabulary)``."""
    tiled = model.image_newline is not None
    embed, project = model.language_model.get_input_embeddings(), model.projector
    states: list[Tensor] = []
    instruction: list[int] = []
    tiles: list[tuple[dict[int, Any], dict[int, int]]] = []  # features by level, and the column of each place
    answered = False
    for part in sample:
        if isinstance(part, int):
            answered = answered or part in ANSWERS
            if not answered:
                instruction.append(len(states))
            states.append(embed(torch.tensor(part)))
            continue
        own: list[dict[int, int]] = []
        tokens: list[Tensor] = []
        for pixels in tiles_of(part, tiled):
            hidden = model.vision_tower(pixels[None], output_hidden_states=True).hidden_states
            maps = [state[:, 1:] for state in hidden]  # the class token is dropped
            tokens.append(project(VisionFeatures(torch.stack(maps, dim=2), tuple(range(len(maps)))))[0])
            own.append({})
            tiles.append(({level: maps[level][0].numpy() for level in LEVELS}, own[-1]))
        for seat in standing(part, definition.grid // definition.stride, tiled):
            if seat is None:
                states.append(model.image_newline)
            else:
                own[seat[0]][seat[1]] = len(states)
                states.append(tokens[seat[0]][seat[1]])
    hidden = torch.stack(states)[None]
    decoder = model.decoder
    positions = decoder.rotary_emb(hidden, torch.arange(len(states))[None])
    for number, layer in enumerate(decoder.layers):
        hidden = layer(hidden, attention_mask=None, position_embeddings=positions)
        if number in model.refusion.layers:
            weights = weights_of(model, model.refusion.layers.index(number))
            before = hidden[0].numpy().copy()
            guide = guide_of(definition.text_guide, [before[column] for column in instruction])
            for features, columns in tiles:
                seen = {place: before[column] for place, column in columns.items()}
                for place, token in block(definition, weights, features, seen, guide).items():
                    hidden[0, columns[place]] = torch.from_numpy(token)
    return model.language_model.lm_head(decoder.norm(hidden))[0]


def weights_of(model: LVLM, point: int) -> dict[str, Any]:
    return {name: value.numpy() for name, value in model.refusion.blocks[point].state_dict().items()}


def given(model: LVLM, samples: Sequence[Sequence[int | Size]], side: str) -> dict[str, Any]:
    """The arguments of one call of the model for all samples."""
    sizes = [part for sample in samples for part in sample if not isinstance(part, int)]
    tiled = model.image_newline is not None
    counts = iter(model.image_tokens(sizes))
    rows = [[t for p in sample for t in ([p] if isinstance(p, int) else [IMAGE] * next(counts))] for sample in samples]
    ids, mask = batch(rows, side)
    labels = ids.masked_fill(~torch.isin(ids, torch.tensor(ANSWERS)), -100)
    found: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if sizes:
        found["pixel_values"] = torch.cat([tiles_of(size, tiled) for size in sizes])
    if tiled and sizes:
        found["image_sizes"] = torch.tensor(sizes)
    return found


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("tiled", [False, True], ids=["squares", "tiles"])
@pytest.mark.parametrize(("ratio", "options"), CHOSEN)
@torch.no_grad()
def test_every_sample_of_a_batch_is_what_the_walk_finds(ratio: int, options: dict[str, Any], tiled: bool) -> None:
    chosen = {"levels": LEVELS, "heads": 2, **options}
    model = tiny_lvlm("avg_pool", ratio, "vision_remember", tiling=ANYRES if tiled else None, **chosen).double()
    shapes = model.config.shapes
    known = {key: value for key, value in chosen.items() if key != "layers"}
    definition = Definition(grid=shapes.grid, stride=shapes.stride, **known)
    expected = [walked(model, definition, sample) for sample in SAMPLES]
    for side in ("left", "right"):
        arguments = given(model, SAMPLES, side)
        logits = model(**arguments).logits
        for row, sample in enumerate(SAMPLES):
            kept = arguments["attention_mask"][row].bool()
            torch.testing.assert_close(logits[row, kept], expected[row], atol=1e-9, rtol=0)
            if side == "right":
                torch.testing.assert_close(
                    model(**given(model, [sample], side)).logits[0], expected[row], atol=1e-9, rtol=0
                )
        model.to_inference()  # for the other side
