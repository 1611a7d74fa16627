"""Every option of Vision Remember computes what its definition says, to the last digit of float64."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.reference_vision_remember import Definition, block, guide_of
from vr_eval.methods.base import RefusionInput, Shapes, VisionFeatures, VisionLayout
from vr_eval.methods.build import build_method
from vr_eval.methods.registry import METHODS

LEVELS = (1, 2, 4)
SHAPES = Shapes(grid=6, tower_width=4, tower_depth=4, select_layer=4, decoder_width=8, decoder_depth=4, stride=2)
PARTS: list[list[int | str]] = [["qq", 0, 1, "q", 2, "qqqaa"], ["q", 3, "q"], ["qqqq"], [4, "aa"]]
"""Samples: numbers are tiles, each q a token of the instruction, each a one of an answer. Of tile 1 some places have no
token, of tile 2 none has (it is padding alone), of tile 4 only one has; there is a sample without an image, and one
without an instruction."""
ROWS = [0, 0, 0, 1, 3]
"""The sample of each tile."""
LOOKED_AT = [("local", 0), ("local", 1), ("local", 2), ("global", 0)]
"""Every scope and halo."""
CHOICES = list(
    itertools.product(
        ("concat", "per_level", "last"),
        LOOKED_AT,
        ("cross_first", "self_first", "cross_only", "self_only"),
        ("mean", "last", "none"),
        (False, True),
    )
)


def made(shapes: Shapes = SHAPES, **options: Any) -> Any:
    """The module with weights that no initialisation chose, so that nothing is zero and no gain is one."""
    chosen = METHODS["vision_remember"].options(**{"levels": LEVELS, "layers": (0, 2), "heads": 2, **options})
    module = build_method("vision_remember", shapes, chosen).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return module


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
        self.features = VisionFeatures(maps, (0, 1, 2, 3, 4))

    def got(self, module: Any, point: int = 0) -> Tensor:
        given = RefusionInput(self.features, self.layout, self.instruction, module.prepare(self.features))
        return module.inject(point, self.hidden, given)

    def expected(self, module: Any, definition: Definition, point: int = 0) -> Tensor:
        hidden = self.hidden.numpy()
        changed = hidden.copy()
        for tile, columns in enumerate(self.columns):
            row = ROWS[tile]
            features = {level: self.features.maps[tile, :, level].numpy() for level in definition.levels}
            tokens = {place: hidden[row, column] for place, column in columns.items()}
            asked = [hidden[row, column] for column in range(self.length) if self.instruction[row, column]]
            guide = guide_of(definition.text_guide, asked)
            for place, token in block(definition, weights_of(module, point), features, tokens, guide).items():
                changed[row, columns[place]] = token
        return torch.from_numpy(changed)


def weights_of(module: Any, point: int) -> dict[str, Any]:
    prefix = f"blocks.{point}."
    return {k.removeprefix(prefix): v.numpy() for k, v in module.state_dict().items() if k.startswith(prefix)}


def agrees(module: Any, definition: Definition, shapes: Shapes = SHAPES) -> None:
    """Training and inference version, at both insertion points, whatever the side of the padding."""
    left, right = Scene(shapes), Scene(shapes, "right")
    first, second = left.expected(module, definition), right.expected(module, definition, 1)
    for _ in ("training", "inference"):
        torch.testing.assert_close(left.got(module), first, atol=1e-10, rtol=0)
        torch.testing.assert_close(right.got(module, 1), second, atol=1e-10, rtol=0)
        module.to_inference()


def defined(shapes: Shapes = SHAPES, **options: Any) -> Definition:
    return Definition(shapes.grid, shapes.stride, 2, **{"levels": LEVELS, **options})


@pytest.mark.parametrize(("fusion", "looked_at", "order", "text_guide", "ffn"), CHOICES)
@torch.no_grad()
def test_every_choice_is_the_definition(fusion: str, looked_at: Any, order: str, text_guide: str, ffn: bool) -> None:
    scope, halo = looked_at
    options = {"fusion": fusion, "scope": scope, "halo": halo, "order": order, "text_guide": text_guide, "ffn": ffn}
    agrees(made(**options), defined(**options))


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("halo", [0, 1, 4])
@pytest.mark.parametrize("levels", [(2,), (0, 3, 4)])
@torch.no_grad()
def test_other_strides_halos_and_levels_are_the_definition_too(stride: int, halo: int, levels: tuple[int, ...]) -> None:
    shapes = dataclasses.replace(SHAPES, stride=stride)
    for fusion in ("concat", "per_level", "last"):
        options = {"levels": levels, "halo": halo, "fusion": fusion}
        agrees(made(shapes, **options), defined(shapes, **options), shapes)


@pytest.mark.parametrize("text_guide", ["mean", "last", "none"])
@torch.no_grad()
def test_padding_and_answers_are_read_by_nothing_whatever_they_hold(text_guide: str) -> None:
    module, scene = made(text_guide=text_guide), Scene()
    expected = scene.got(module)
    read = scene.instruction.index_put((scene.layout.row, scene.layout.column), torch.tensor(True))
    scene.hidden[~read] = torch.inf
    assert torch.equal(scene.got(module)[read], expected[read])


@pytest.mark.parametrize("text_guide", ["mean", "last", "none"])
def test_a_tile_of_padding_alone_asks_no_attention_to_choose_among_nothing(
    text_guide: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its definition such attention is 0/0: of kernels, some answer 0 and some NaN, which reaches the weights."""

    def by_definition(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None) -> Tensor:
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        return scores.softmax(-1) @ value

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", by_definition)
    module, scene = made(text_guide=text_guide), Scene()
    scene.instruction[0] = False  # no text-guided token stands in for those that the tile lacks
    out = scene.got(module)
    torch.testing.assert_close(out, scene.expected(module, defined(text_guide=text_guide)), atol=1e-10, rtol=0)
    out.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.blocks[0].parameters())


def test_without_zero_init_the_outputs_start_somewhere_else() -> None:
    for zero_init in (True, False):
        chosen = METHODS["vision_remember"].options(ffn=True, heads=2, zero_init=zero_init)
        block = build_method("vision_remember", SHAPES, chosen).blocks[0]
        for part in (block.cross, block.self_attention, block.ffn):
            assert bool(part.out.weight.any()) is not zero_init
