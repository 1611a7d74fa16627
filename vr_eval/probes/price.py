"""What the full Tiny-ImageNet costs at the shapes of LLaVA-NeXT-7B: ``python -m vr_eval.probes.price``.

Counted on the meta device, so nothing is downloaded, computed or stored. The shapes are those of the published models
(CLIP-ViT-L/14-336 and Vicuna-7B). The time is operations over an assumed speed, not a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import CLIPVisionConfig, LlamaConfig

from vr_eval.measure.flops import count_flops
from vr_eval.methods.base import VisionFeatures
from vr_eval.models.config import LVLMConfig
from vr_eval.models.lvlm import LVLM
from vr_eval.probes.tapnames import component
from vr_eval.probes.taps import taps_of

IMAGES = 110_000
"""Training and validation images of Tiny-ImageNet."""
PROMPT_TOKENS = 58
"""Text tokens, a newline included (ours; a longer prompt adds its share of the decoder)."""
ASSUMED_TFLOPS = 300.0
"""Operations a second of one GPU, in tera: a third of an H100's bfloat16 peak (assumed, not measured)."""


@dataclass(frozen=True)
class Price:
    """Of one uncompressed model and one pool.

    Attributes:
        taps: Places that are read.
        flops: Operations of one image.
        stored_bytes: Features of all images.
    """

    taps: int
    flops: int
    stored_bytes: int

    def hours(self, tflops: float = ASSUMED_TFLOPS) -> float:
        """Time for all images at a speed in tera-operations per second."""
        return IMAGES * self.flops / (tflops * 1e12) / 3600


def llava_next_7b() -> Price:
    """LLaVA-NeXT-7B on base views, with its own MLP projector."""
    tower = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    decoder = LlamaConfig(
        vocab_size=32064,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=4096,
    )
    with torch.device("meta"):
        model = LVLM(LVLMConfig(tower, decoder)).eval()
        pixels = torch.empty(1, 3, 336, 336)
        features = VisionFeatures(torch.empty(1, 576, len(model.read_levels), 1024), model.read_levels)
        tokens = torch.empty(1, model.tokens_per_image + PROMPT_TOKENS, 4096)
        flops = count_flops(model, lambda: model.encode_images(pixels))
        flops += count_flops(model, lambda: model.projector(features))
        flops += count_flops(model, lambda: model.language_model(inputs_embeds=tokens, logits_to_keep=1))
    taps = taps_of(model)
    widths = [1024 if component(tap) == "tower" else 4096 for tap in taps]
    return Price(len(taps), flops, IMAGES * 4 * sum(widths))


def main() -> None:
    """Print it."""
    price = llava_next_7b()
    print(f"{price.taps} taps, {IMAGES:,} images: {price.flops / 1e12:.1f} TFLOP an image, ", end="")
    print(f"{IMAGES * price.flops / 1e18:.2f} EFLOP, {price.stored_bytes / 1e9:.0f} GB of features; ", end="")
    print(f"{price.hours():.1f} hours at an assumed {ASSUMED_TFLOPS:.0f} TFLOP/s")


if __name__ == "__main__":
    main()
