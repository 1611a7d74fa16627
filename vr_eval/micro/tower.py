"""Pre-training of the micro vision tower: which glyph and which colour stands on every patch, and where the patch is.

Dense supervision makes a tower of 0.5 million parameters readable in minutes; the heads are thrown away after it.
Without the place as a target the tower forgets it (a linear probe on the result is at chance), and no decoder can then
read a table's cell or a bar's height; CLIP's own features keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import CLIPVisionConfig, CLIPVisionModel

from vr_eval.micro.data import COLOURS, GLYPHS
from vr_eval.models.backbones import MICRO

_BLANK_WEIGHT = 0.1  # nine patches in ten are blank; unweighted, the first hundred steps learn only that


def tower_config() -> CLIPVisionConfig:
    """A CLIP vision model with the sizes of the `micro` backbone."""
    return CLIPVisionConfig(
        hidden_size=MICRO.tower_width,
        intermediate_size=2 * MICRO.tower_width,
        num_hidden_layers=MICRO.tower_depth,
        num_attention_heads=MICRO.tower_heads,
        image_size=MICRO.image_px,
        patch_size=MICRO.patch_px,
    )


class DensePretraining(nn.Module):
    """The tower under two linear heads on its last hidden state; its forward returns the loss, for the Trainer."""

    glyph_weight: Tensor

    def __init__(self, tower: CLIPVisionModel) -> None:
        super().__init__()
        self.tower = tower
        self.glyph_head = nn.Linear(MICRO.tower_width, len(GLYPHS))
        self.colour_head = nn.Linear(MICRO.tower_width, len(COLOURS) + 1)
        self.row_head = nn.Linear(MICRO.tower_width, MICRO.grid)
        self.column_head = nn.Linear(MICRO.tower_width, MICRO.grid)
        weight = torch.ones(len(GLYPHS))
        weight[0] = _BLANK_WEIGHT
        self.register_buffer("glyph_weight", weight)

    def features(self, pixel_values: Tensor) -> Tensor:
        """``(M, G*G, D)``: what the vision seam will read."""
        hidden = self.tower(pixel_values, output_hidden_states=True).hidden_states[MICRO.select_layer]
        return hidden[:, -(MICRO.grid**2) :]

    def forward(self, pixel_values: Tensor, glyphs: Tensor, colours: Tensor) -> dict[str, Tensor]:
        patches = self.features(pixel_values)
        places = torch.arange(MICRO.grid**2, device=patches.device).expand(len(patches), -1)
        rows, columns = places // MICRO.grid, places % MICRO.grid

        def loss(head: nn.Linear, target: Tensor, weight: Tensor | None = None) -> Tensor:
            return F.cross_entropy(head(patches).flatten(0, 1), target.flatten(), weight=weight)

        seen = loss(self.glyph_head, glyphs, self.glyph_weight) + 0.5 * loss(self.colour_head, colours)
        return {"loss": seen + 0.25 * (loss(self.row_head, rows) + loss(self.column_head, columns))}


@torch.no_grad()
def unit_features(tower: CLIPVisionModel, pixel_values: Tensor) -> float:
    """Rescale the tower's residual stream, in place, so that its selected hidden state has a root mean square of 1.

    Every hidden state is multiplied by one factor, which is returned; what the layers compute stays the same, since
    each reads the stream through a LayerNorm. Pre-training leaves a root mean square of about 5, and vision tokens that
    large drown what a young decoder adds to them.
    """
    hidden = tower(pixel_values, output_hidden_states=True).hidden_states[MICRO.select_layer]
    factor = float(hidden.pow(2).mean().rsqrt())
    writers: list[nn.Module] = [tower.pre_layrnorm]
    writers += [part for layer in tower.encoder.layers for part in (layer.self_attn.out_proj, layer.mlp.fc2)]
    for writer in writers:
        for parameter in writer.parameters():
            parameter.mul_(factor)
    return factor


class DenseDataset(Dataset[dict[str, Any]]):
    """Images with their glyph and colour classes ``(n, G*G)``."""

    def __init__(self, images: Sequence[Any], glyphs: NDArray[np.uint8], colours: NDArray[np.uint8]) -> None:
        self.images, self.glyphs, self.colours = images, glyphs, colours

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "glyphs": self.glyphs[index], "colours": self.colours[index]}
