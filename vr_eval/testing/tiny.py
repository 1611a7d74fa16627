"""Random models of the real classes, small enough for a test: a 12 x 12 grid, four layers each side."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from transformers import CLIPVisionConfig, Qwen2Config

from vr_eval.methods.base import Shapes
from vr_eval.methods.registry import METHODS, NONE
from vr_eval.models.config import LVLMConfig
from vr_eval.models.lvlm import LVLM

IMAGE, PAD = 3, 0
SIDE, GRID = 48, 12  # pixels and patches: these have 4 pixels a side
NEXT = {"pinpoints": [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]], "limit": None, "lone": False}
"""LLaVA-NeXT's tiling, for this tower."""


def shapes(ratio: int) -> Shapes:
    """The sizes of the tiny backbone, for a method at a compression ratio of 1/ratio."""
    return Shapes(
        grid=GRID,
        tower_width=16,
        tower_depth=4,
        select_layer=4,
        decoder_width=32,
        decoder_depth=4,
        stride=isqrt(ratio),
    )


SHAPES = shapes(1)


def tiny_lvlm(
    projector: str = "avg_pool",
    ratio: int = 4,
    refusion: str = "none",
    free: str = "none",
    *,
    noise: float = 0.2,
    tiling: dict[str, Any] | None = None,
    **options: Any,
) -> LVLM:
    """A random LVLM; `free` is its training-free method, of whichever seam.

    `noise` is added to every method parameter, so that zero-initialised outputs do something.
    """
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=SHAPES.tower_width,
        intermediate_size=32,
        num_hidden_layers=SHAPES.tower_depth,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=SIDE // GRID,
    )
    text = Qwen2Config(
        vocab_size=97,
        hidden_size=SHAPES.decoder_width,
        intermediate_size=64,
        num_hidden_layers=SHAPES.decoder_depth,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD,
    )
    owner = next((name for name in (free, refusion) if name != "none"), projector)  # whose options they are
    config = LVLMConfig(
        vision,
        text,
        projector=projector,
        ratio=ratio,
        refusion=refusion,
        **({METHODS[free].seam: free} if free != NONE else {}),
        select_layer=-1,
        image_token_id=IMAGE,
        tiling=tiling,
        mark_token_ids=[5, 6],  # looked at by TokenPacker-HD's tiling alone
        options={owner: options} if options else {},
    )
    model = LVLM(config).eval()
    model.generation_config.pad_token_id = PAD
    # A random decoder writes any token, and an image token in an answer asks for an image.
    model.generation_config.suppress_tokens = [IMAGE]
    if noise:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for part in (model.projector, model.refusion):
                for parameter in part.parameters() if part is not None else ():
                    parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return model


def pixels(images: int, seed: int = 0) -> torch.Tensor:
    """Random images ``(images, 3, SIDE, SIDE)``."""
    return torch.randn(images, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def prompt(model: LVLM, *parts: int | str) -> list[int]:
    """Token ids: numbers are text tokens, "image" stands for all tokens of one image."""
    ids: list[int] = []
    for part in parts:
        ids += [IMAGE] * model.tokens_per_image if part == "image" else [int(part)]
    return ids


def batch(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded ids and mask ``(B, S)``, padding on `side`."""
    width = max(map(len, rows))
    padded, mask = [], []
    for row in rows:
        fill = [PAD] * (width - len(row))
        ones = [1] * len(row)
        padded.append(fill + row if side == "left" else row + fill)
        mask.append([0] * len(fill) + ones if side == "left" else ones + [0] * len(fill))
    return torch.tensor(padded), torch.tensor(mask)
