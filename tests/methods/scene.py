"""A batch with all that makes a batch hard, for a refusion method by itself: written out place by place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vr_eval.methods.base import RefusionInput, Shapes, VisionFeatures, VisionLayout

SHAPES = Shapes(grid=6, tower_width=4, tower_depth=4, select_layer=4, decoder_width=8, decoder_depth=4, stride=2)
PARTS: list[list[int | str]] = [["qq", 0, 1, "q", 2, "qqqaa"], ["q", 3, "q"], ["qqqq"], [4, "aa"]]
"""Samples: numbers are tiles, each q a token of the instruction, each a one of an answer. Of tile 1 some places have no
token, of tile 2 none has (it is padding alone), of tile 4 only one has; there is a sample without an image, and one
without an instruction."""
ROWS = [0, 0, 0, 1, 3]
"""The sample of each tile."""
LEVELS = (0, 1, 2, 3, 4)
Found = Callable[[dict[int, Any], dict[int, Any], list[Any]], dict[int, Any]]


class Scene:
    """A padded batch: image tokens and text of four samples, and hidden states at all of its places.

    `columns` says who stands where: of every tile, the column of each place that has a token.
    """

    def __init__(self, shapes: Shapes = SHAPES, side: str = "left") -> None:
        generator = torch.Generator().manual_seed(3)
        places = (shapes.grid // shapes.stride) ** 2
        shown = [list(range(places)), [p for p in range(places) if p % 3 != 1], [], list(range(places)), [0]]
        lengths = [sum(len(shown[p]) if isinstance(p, int) else len(p) for p in parts) for parts in PARTS]
        self.length = max(lengths) + 1
        self.instruction = torch.zeros(len(PARTS), self.length, dtype=torch.bool)
        self.columns: list[dict[int, int]] = [{} for _ in shown]
        for row, parts in enumerate(PARTS):
            column = self.length - lengths[row] if side == "left" else 0
            for part in parts:
                if isinstance(part, int):
                    self.columns[part] = {place: column + i for i, place in enumerate(shown[part])}
                    column += len(shown[part])
                else:
                    for letter in part:
                        self.instruction[row, column] = letter == "q"
                        column += 1
        tokens = [(ROWS[t], c, t * places + p) for t, own in enumerate(self.columns) for p, c in own.items()]
        row_, column_, place_ = (torch.tensor(part) for part in zip(*tokens, strict=True))
        self.layout = VisionLayout(row_, column_, len(shown), places, place_, torch.tensor(ROWS))
        shape = (len(PARTS), self.length, shapes.decoder_width)
        self.hidden = torch.randn(shape, generator=generator, dtype=torch.float64)
        maps = torch.randn(len(shown), shapes.grid**2, 5, shapes.tower_width, generator=generator, dtype=torch.float64)
        self.features = VisionFeatures(maps, LEVELS)

    def got(self, module: Any, point: int = 0) -> Tensor:
        given = RefusionInput(self.features, self.layout, self.instruction, module.prepare(self.features))
        return module.inject(point, self.hidden, given)

    def expected(self, found: Found) -> Tensor:
        """The hidden states where `found` is asked about every tile: (features by level, tokens by place, hidden states
        of its sample's instruction) to what becomes of the tokens."""
        hidden = self.hidden.numpy()
        changed = hidden.copy()
        for tile, columns in enumerate(self.columns):
            row = ROWS[tile]
            features = {level: self.features.maps[tile, :, level].numpy() for level in LEVELS}
            tokens = {place: hidden[row, column] for place, column in columns.items()}
            asked = [hidden[row, column] for column in range(self.length) if self.instruction[row, column]]
            for place, token in found(features, tokens, asked).items():
                changed[row, columns[place]] = token
        return torch.from_numpy(changed)
