"""Pre-training of the micro vision tower: which glyph and which colour stands on every patch, where the patch is, and
at which patch an object is counted.

Dense supervision makes a tower of 0.5 million parameters readable in minutes; the heads are thrown away after it.
Without the place as a target the tower forgets it (a linear probe on the result is at chance), and no decoder can then
read a table's cell or a bar's height; CLIP's own features keep it. Without the anchors an object of nine patches looks
like two of four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import CLIPVisionConfig, CLIPVisionModel

from vr_eval.catalog.backbones import MICRO
from vr_eval.micro.data import COLOURS, GLYPHS

# Nine patches in ten are blank. Unweighted, the first hundred steps learn only that; and a linear probe on a tower with
# unweighted places found 97 % of all rows, but only 77 % of those of the tops of bars.
_BLANK_WEIGHT = 0.1
_ANCHOR_WEIGHT = 10.0  # about one patch in a hundred


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
    """The tower under linear heads on its last hidden state; its forward returns the loss, for the Trainer."""

    glyph_weight: Tensor
    anchor_weight: Tensor

    def __init__(self, tower: CLIPVisionModel) -> None:
        super().__init__()
        self.tower = tower
        self.glyph_head = nn.Linear(MICRO.tower_width, len(GLYPHS))
        self.colour_head = nn.Linear(MICRO.tower_width, len(COLOURS) + 1)
        self.row_head = nn.Linear(MICRO.tower_width, MICRO.grid)
        self.column_head = nn.Linear(MICRO.tower_width, MICRO.grid)
        self.anchor_head = nn.Linear(MICRO.tower_width, 2)
        weight = torch.ones(len(GLYPHS))
        weight[0] = _BLANK_WEIGHT
        self.register_buffer("glyph_weight", weight)
        self.register_buffer("anchor_weight", torch.tensor([1.0, _ANCHOR_WEIGHT]))

    def features(self, pixel_values: Tensor) -> Tensor:
        """``(M, G*G, D)``: what the vision seam will read."""
        hidden = self.tower(pixel_values, output_hidden_states=True).hidden_states[MICRO.select_layer]
        return hidden[:, -(MICRO.grid**2) :]

    def forward(self, pixel_values: Tensor, glyphs: Tensor, colours: Tensor, anchors: Tensor) -> dict[str, Tensor]:
        """Labels ``(M, G*G)``: classes of `GLYPHS` and `COLOURS` (0: background), and 1 where an object is counted."""
        patches = self.features(pixel_values)
        places = torch.arange(MICRO.grid**2, device=patches.device).expand(len(patches), -1)
        printed = torch.where(glyphs > 0, 1.0, _BLANK_WEIGHT)

        def loss(head: nn.Linear, target: Tensor, weight: Tensor | None = None) -> Tensor:
            return F.cross_entropy(head(patches).flatten(0, 1), target.flatten(), weight=weight)

        def placed(head: nn.Linear, target: Tensor) -> Tensor:
            each = F.cross_entropy(head(patches).transpose(1, 2), target, reduction="none")
            return (each * printed).sum() / printed.sum()

        what = loss(self.glyph_head, glyphs, self.glyph_weight) + 0.5 * loss(self.colour_head, colours)
        where = placed(self.row_head, places // MICRO.grid) + placed(self.column_head, places % MICRO.grid)
        return {"loss": what + 0.5 * where + 0.5 * loss(self.anchor_head, anchors, self.anchor_weight)}


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
    """Images with their classes per patch, ``(n, G*G)`` for each name of `labels`."""

    def __init__(self, images: Sequence[Any], labels: Mapping[str, NDArray[np.uint8]]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], **{name: classes[index] for name, classes in self.labels.items()}}
