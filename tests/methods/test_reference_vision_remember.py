"""Every option of Vision Remember computes what its definition says, to the last digit of float64."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.reference_vision_remember import Definition, Maps, Vector, block, guide_of
from tests.methods.scene import SHAPES, Scene
from vr_eval.methods.base import Shapes
from vr_eval.methods.registry import METHODS
from vr_eval.models.methods import build_method

LEVELS = (1, 2, 4)
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


def weights_of(module: Any, point: int) -> dict[str, Any]:
    prefix = f"blocks.{point}."
    return {k.removeprefix(prefix): v.numpy() for k, v in module.state_dict().items() if k.startswith(prefix)}


def expected(scene: Scene, module: Any, definition: Definition, point: int = 0) -> Tensor:
    def found(features: Mapping[int, Maps], tokens: Mapping[int, Vector], asked: Sequence[Vector]) -> dict[int, Vector]:
        guide = guide_of(definition.text_guide, asked)
        return block(definition, weights_of(module, point), features, tokens, guide)

    return scene.expected(found)


def agrees(module: Any, definition: Definition, shapes: Shapes = SHAPES) -> None:
    """Training and inference version, at both insertion points, whatever the side of the padding."""
    left, right = Scene(shapes), Scene(shapes, "right")
    first, second = expected(left, module, definition), expected(right, module, definition, 1)
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
    before = scene.got(module)
    read = scene.instruction.index_put((scene.layout.row, scene.layout.column), torch.tensor(True))
    scene.hidden[~read] = torch.inf
    assert torch.equal(scene.got(module)[read], before[read])


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
    torch.testing.assert_close(out, expected(scene, module, defined(text_guide=text_guide)), atol=1e-10, rtol=0)
    out.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.blocks[0].parameters())


def test_without_zero_init_the_outputs_start_somewhere_else() -> None:
    for zero_init in (True, False):
        chosen = METHODS["vision_remember"].options(ffn=True, heads=2, zero_init=zero_init)
        block = build_method("vision_remember", SHAPES, chosen).blocks[0]
        for part in (block.cross, block.self_attention, block.ffn):
            assert bool(part.out.weight.any()) is not zero_init
