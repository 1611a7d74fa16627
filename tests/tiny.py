"""Random models of the real classes, small enough for a test: an 8 x 8 ... 12 x 12 grid, four layers each side."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPVisionConfig, Qwen2Config

from vr_eval.methods.registry import METHODS, NONE
from vr_eval.models.config import LVLMConfig
from vr_eval.models.lvlm import LVLM

IMAGE, PAD = 3, 0
SIDE = 48  # pixels: 12 x 12 patches of 4

PROJECTORS = (
    ("mlp", 1),
    ("avg_pool", 4),
    ("pixel_shuffle", 9),
    ("tokenpacker", 4),
    ("ldpv2", 4),
    ("resampler", 4),
    ("c_abstractor", 9),
    ("sva_connector", 4),
)
"""Every projector with a ratio; extended as methods are added."""

REFUSIONS = ("vision_remember", "deepstack", "sva")
"""Every refusion method; extended as methods are added."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepstack-crops": ("deepstack", {"stacks": "crops"}),
    "deepstack-crops-shared": ("deepstack", {"stacks": "crops", "shared": True}),
    "deepstack-tower": ("deepstack", {"stacks": "crops", "place": "tower"}),
}
"""Forms of a refusion method that compute something of their own: its name and the options that ask for it."""
DOWNSAMPLED = (("mlp", 1), ("avg_pool", 4), ("pixel_shuffle", 9))
"""Every projector that takes any patch grid, with a ratio whose stride divides 6."""


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
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=4,
    )
    text = Qwen2Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
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
