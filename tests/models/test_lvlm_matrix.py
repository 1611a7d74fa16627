"""Every method and composition computes the same whatever the batch, the padding, the cache or the number of images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vr_eval.methods.registry import METHODS
from vr_eval.methods.spec import MethodSpec
from vr_eval.models.lvlm import LVLM
from vr_eval.testing.alone import ALONE
from vr_eval.testing.cases import Case, cases, cases_of
from vr_eval.testing.seams import SEAMS
from vr_eval.testing.tiles import tiled_batch

VARIANTS = (
    Case("mlp", 1, "deepstack"),
    # One key per token gives attention nothing to choose: uncompressed tokens get more of them.
    Case("mlp", 1, "vision_remember", options={"halo": 1}),
    Case("mlp", 1, "sva", options={"levels": (2, 4)}),
    Case("resampler", 4, "vision_remember", options={"scope": "global"}),
    # Stacks of crops fill the decoder of four layers without compression already; in the tower any projector will do.
    Case("mlp", 1, "deepstack", options={"stacks": "crops"}),
    Case("mlp", 1, "deepstack", options={"stacks": "crops", "shared": True}),
    Case("mlp", 1, "deepstack", options={"stacks": "crops", "place": "tower"}),
    Case("tokenpacker", 4, "deepstack", options={"stacks": "crops", "place": "tower"}),
    Case("resampler", 4, "deepstack", options={"stacks": "crops", "place": "tower"}),
)
"""Forms of a method that compute something of their own."""


@pytest.fixture(params=[*cases(), *VARIANTS], ids=str, scope="module")
def model(request: pytest.FixtureRequest) -> LVLM:
    made: LVLM = request.param.model()
    return made


@pytest.mark.parametrize("check", SEAMS, ids=lambda check: check.__name__)
def test_a_composition_keeps_what_is_promised(model: LVLM, check: Callable[[LVLM], None]) -> None:
    torch.manual_seed(0)
    check(model)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("check", ALONE, ids=lambda check: check.__name__)
def test_a_method_keeps_what_is_promised(name: str, check: Callable[[MethodSpec, dict[str, object]], None]) -> None:
    torch.manual_seed(0)
    check(METHODS[name], {})


@pytest.mark.parametrize("name", METHODS)
def test_a_method_sees_the_tiles_of_its_own_image(name: str) -> None:
    torch.manual_seed(0)
    tiled_batch(cases_of(name)[0].model(tiled=True))


def test_no_method_of_the_registry_is_left_out() -> None:
    used = {name for case in cases() for name in (case.projector, case.refusion, case.free)} - {"none"}
    assert used == set(METHODS)
