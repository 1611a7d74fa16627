"""Schemes of cutting images into tiles: what each does to images and tokens, by the kind of its description."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vr_eval.catalog.tiling import AnyRes, InternVLTiles, Tiling, TokenPackerHD
from vr_eval.models.tiling.anyres import AnyResScheme
from vr_eval.models.tiling.base import Scheme
from vr_eval.models.tiling.internvl_tiles import InternVLScheme
from vr_eval.models.tiling.tokenpacker_hd import TokenPackerHDScheme

SCHEMES: Mapping[type[Tiling], type[Scheme]] = MappingProxyType(
    {AnyRes: AnyResScheme, InternVLTiles: InternVLScheme, TokenPackerHD: TokenPackerHDScheme}
)


def scheme_of(tiling: Tiling, tile_px: int) -> Scheme:
    """What `tiling` does to images for a tower of `tile_px` pixels a side."""
    return SCHEMES[type(tiling)](tiling, tile_px)
