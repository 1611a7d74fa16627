"""What all checks share: one tower and one decoder on the device, every method to put around them, and questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vr_eval.adapters.answering import left_padded, prepare
from vr_eval.adapters.questions import Question
from vr_eval.catalog.backbone import BackboneSpec, Loading
from vr_eval.catalog.recipe import Recipe
from vr_eval.config.cell import Cell
from vr_eval.methods.registry import METHODS, NONE, of_seam, projector_options
from vr_eval.models.build import build_lvlm, lvlm_config
from vr_eval.models.feature_store import FeatureStore
from vr_eval.models.features import ImageEncoder
from vr_eval.models.lvlm import LVLM
from vr_eval.models.processor import Processor

RATIO = 4
"""Where a method has one (ours)."""
NOISE = 0.02
"""Added to all parameters of methods: many outputs begin at zero, and would hide what their method computes (ours)."""
SIDES = ((1.0, 1.0), (0.9, 1.9), (2.0, 1.1), (1.5, 1.6))
"""Heights and widths of the images in tiles: two, two, two and four of them, beside the base view."""
WORDS = ("What is it?", "Which words are printed on it, and in which colour?", "How many?", "Describe it in detail.")


@dataclass(frozen=True)
class Bed:
    """One backbone on one device.

    Attributes:
        base: Its uncompressed model, whose tower and decoder all others share.
        processor: Its processor.
        device: Where everything runs.
        loading: Dtype and attention.
    """

    backbone: str
    base: LVLM
    processor: Processor
    device: torch.device
    loading: Loading

    @classmethod
    def of(cls, backbone: str, device: torch.device, loading: Loading) -> Bed:
        """Draw the weights, on the device."""
        cell = cell_of(backbone, "mlp", 1)
        base, processor = build_lvlm(cell, loading=loading, device=device)
        return cls(backbone, base.to(device).eval(), processor, device, loading)

    @property
    def spec(self) -> BackboneSpec:
        return cell_of(self.backbone, "mlp", 1).spec

    def model(self, cell: Cell) -> LVLM:
        """The training version of `cell` around the shared parts, its methods with noise."""
        tower, decoder = self.base.vision_tower, self.base.language_model
        config = lvlm_config(cell, tower, decoder, self.base.config.image_token_id)
        torch.manual_seed(0)
        model = LVLM(config, tower, decoder)
        with torch.no_grad():
            for part in (model.projector, model.refusion):
                for parameter in part.parameters() if part is not None else ():
                    parameter.add_(NOISE * torch.randn_like(parameter))
        return model.to(self.device, self.base.dtype).eval()

    def question(self, number: int, new_tokens: int = 4) -> Question:
        """A question about one image; several numbers have other shapes and lengths."""
        how = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        return Question("check", number, WORDS[number % len(WORDS)], how, lambda: self.messages(number))

    def messages(self, number: int) -> list[dict[str, Any]]:
        """Its chat messages."""
        height, width = (round(self.spec.image_px * side) for side in SIDES[number % len(SIDES)])
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        words = WORDS[number % len(WORDS)]
        content = [{"type": "image", "image": Image.fromarray(noise)}, {"type": "text", "text": words}]
        return [{"role": "user", "content": content}]

    def encoder(self, model: LVLM) -> ImageEncoder:
        """Reads the whole tower to name it, so one will do for several batches."""
        return ImageEncoder(model, self.processor.image_processor, FeatureStore())

    def inputs(self, encoder: ImageEncoder, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Arguments of one prefill of a batch of the encoder's model, made as the Answerer makes them."""
        model = encoder.model
        prepared = [prepare(self.messages(number), self.processor, model) for number in numbers]
        ids, mask = left_padded([one.ids for one in prepared], self.processor.tokenizer.pad_token_id)
        given = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        return given | encoder.read([one.images for one in prepared])


def cell_of(backbone: str, projector: str, ratio: int, refusion: str = NONE, **training_free: str) -> Cell:
    """A cell on random weights; `training_free`: seam to method."""
    plain = Cell(backbone, projector, ratio, refusion, NONE, 0, {}, Recipe(), random_weights=True)
    return replace(plain, **training_free)


def cells_of(backbone: str) -> list[Cell]:
    """One cell for every method that the registry has, the uncompressed model first."""
    grid = cell_of(backbone, "mlp", 1).spec.grid
    cells = []
    for name in of_seam("projector"):
        ratios = projector_options(name).ratios(grid)
        cells.append(cell_of(backbone, name, RATIO if RATIO in ratios and name != "mlp" else ratios[0]))
    cells.sort(key=lambda cell: cell.projector != "mlp")
    cells += [cell_of(backbone, "avg_pool", RATIO, refusion=name) for name in of_seam("refusion")]
    free = [method for method in METHODS.values() if method.seam in ("pruning", "image")]
    return cells + [cell_of(backbone, "mlp", 1, **{method.seam: method.name}) for method in free]
