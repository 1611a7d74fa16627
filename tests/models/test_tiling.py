"""Tilings: a scheme for each description, and what is written of them."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from tests.llava import tokenizer
from vr_eval.catalog.tiling import TILINGS, AnyRes, InternVLTiles, Tiling, TokenPackerHD, read_tiling
from vr_eval.errors import InputError
from vr_eval.models.config import LVLMConfig
from vr_eval.models.tiling import SCHEMES, scheme_of

POINTS = ((336, 672), (672, 336))
LISTS = [[336, 672], [672, 336]]
WRITTEN: list[tuple[Tiling, dict[str, Any]]] = [
    (AnyRes(POINTS), {"pinpoints": LISTS, "limit": None, "lone": False, "scheme": "anyres"}),
    (AnyRes(POINTS, 9, True), {"pinpoints": LISTS, "limit": 9, "lone": True, "scheme": "anyres"}),
    (InternVLTiles(POINTS), {"pinpoints": LISTS, "limit": None, "lone": False, "scheme": "internvl"}),
    (TokenPackerHD(POINTS), {"pinpoints": LISTS, "limit": None, "lone": False, "scheme": "tokenpacker_hd"}),
]
"""Tilings as config.json, grid files and identities have had them from the beginning, their keys in this order."""


@pytest.mark.parametrize(("tiling", "row"), WRITTEN)
def test_what_is_written_of_a_tiling_stays_and_is_read_again(tiling: Tiling, row: dict[str, Any]) -> None:
    assert list(tiling.row.items()) == list(row.items())
    config = LVLMConfig(tiling=tiling.row)
    assert LVLMConfig(**json.loads(config.to_json_string(use_diff=False))).tiles == tiling


def test_a_row_of_an_early_checkpoint_names_no_scheme() -> None:
    assert read_tiling({"pinpoints": LISTS, "limit": 9, "lone": True}) == AnyRes(POINTS, 9, True)


def test_a_row_that_says_what_its_scheme_cannot_do_is_not_read() -> None:
    with pytest.raises(TypeError, match="limit"):
        read_tiling({"pinpoints": LISTS, "limit": 9, "lone": False, "scheme": "internvl"})


def test_every_description_has_its_scheme() -> None:
    assert set(SCHEMES) == set(TILINGS.values())
    assert {name: kind.scheme for name, kind in TILINGS.items()} == {name: name for name in TILINGS}
    assert not any(inspect.isabstract(scheme) for scheme in SCHEMES.values())


def test_parts_cannot_be_put_together_with_internvls_tiles() -> None:
    images: Any = None
    with pytest.raises(InputError, match="tiling: a tower and a decoder cannot have these tiles"):
        scheme_of(InternVLTiles(POINTS), 336).processor(images, tokenizer())
