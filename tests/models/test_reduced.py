"""What only some reductions do: merging, another order, several stages; and what layers are asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vr_eval.layers.rows import Rows
from vr_eval.methods.base import VisionFeatures
from vr_eval.methods.reduction import Reduction, Sample, by_image
from vr_eval.models.lvlm import LVLM
from vr_eval.models.reduced import ask, renumbered
from vr_eval.testing.tiny import batch, pixels, prompt, tiny_lvlm


class Folded(Reduction):
    """Of every image: the last token, the first, then a weighted sum of the second and third; of three tokens, all."""

    def __init__(self, places: tuple[int, ...] = (1,), positions: str = "original") -> None:
        super().__init__()
        self.places, self.positions = places, positions

    def choose(self, step: int, sample: Sample) -> Rows:
        def fold(at: Tensor) -> Rows:
            n = len(at) - 1
            if n < 3:
                return Rows.of(torch.arange(n + 1))
            return Rows(torch.tensor([n, 0, 2]), torch.tensor([0, 1, 2, 2]), torch.tensor([n, 0, 1, 2]), WEIGHT)

        return by_image(sample, fold)


WEIGHT = torch.tensor([1.0, 1.0, 0.25, 2.0])


def model_with(reduction: Reduction) -> LVLM:
    model = tiny_lvlm("avg_pool", 4).double()
    model.pruning = reduction
    return model


@pytest.mark.parametrize("positions", ["original", "renumbered"])
@torch.no_grad()
def test_merged_tokens_stand_in_their_order_and_have_their_homes_positions(positions: str) -> None:
    model = model_with(Folded((1,), positions))
    n = model.tokens_per_image
    row = prompt(model, 5, "image", 6, "image", 7, 8)
    images = pixels(2).double()
    maps = model.vision_tower(images, output_hidden_states=True).hidden_states[-1][:, 1:]
    tokens = model.projector(VisionFeatures(maps.unsqueeze(2), (4,)))
    hidden = model.get_input_embeddings()(torch.tensor([row])).clone()
    hidden[0, 1 : 1 + n], hidden[0, 2 + n : 2 + 2 * n] = tokens[0], tokens[1]
    at = torch.arange(len(row))[None]
    layers, rotary = model.decoder.layers, model.decoder.rotary_emb
    hidden = layers[0](hidden, position_embeddings=rotary(hidden, at))[0]
    parts, homes = [hidden[:1]], [0]
    for start in (1, 2 + n):
        image = hidden[start : start + n]
        parts += [image[-1:], image[:1], (0.25 * image[1] + 2 * image[2])[None], hidden[start + n : start + n + 1]]
        homes += [start + n - 1, start, start + 2, start + n]
    hidden = torch.cat([*parts, hidden[-1:]])[None]
    at = torch.tensor([[*homes, len(row) - 1]])
    if positions == "renumbered":
        at = torch.arange(at.shape[1])[None]
    for layer in layers[1:]:
        hidden = layer(hidden, position_embeddings=rotary(hidden, at))
    expected = model.language_model.lm_head(model.decoder.norm(hidden))
    out = model(torch.tensor([row]), None, images)
    torch.testing.assert_close(out.logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reduction", [Folded(), Folded((0,)), Folded((1, 3)), Folded((0, 2, 3), "renumbered")])
def test_merging_gives_a_batch_with_and_without_a_cache_what_each_sample_gets_alone(reduction: Reduction) -> None:
    model = model_with(reduction)
    rows = [prompt(model, 10, "image", 11), prompt(model, "image", 12, "image", 13, 14), prompt(model, 15, 16)]
    ids, mask = batch(rows, "left")
    images = pixels(3).double()
    how: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "output_logits": True}
    how["return_dict_in_generate"] = True
    together = model.generate(ids, attention_mask=mask, pixel_values=images, **how)
    without = model.generate(ids, attention_mask=mask, pixel_values=images, use_cache=False, **how)
    for step, other in zip(together.logits, without.logits, strict=True):
        torch.testing.assert_close(step, other, atol=1e-5, rtol=1e-4)
    for place, (row, first, count) in enumerate(zip(rows, (0, 1, 3), (1, 2, 0), strict=True)):
        own = images[first : first + count] if count else None
        alone = model.generate(torch.tensor([row]), pixel_values=own, **how)
        torch.testing.assert_close(together.logits[3][place], alone.logits[3][0], atol=1e-5, rtol=1e-4)


def test_a_merged_token_has_a_gradient_to_all_that_it_is_made_of() -> None:
    model = model_with(Folded((0,)))
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    features = model.encode_images(pixels(1).double()).detach().requires_grad_()
    model(ids, None, vision_features=features).logits[:, -1].sum().backward()
    cells = features.grad[0, :, 0].abs().sum(-1).view(6, 2, 6, 2).sum((1, 3)).flatten()  # 2x2 patches a token
    assert cells.nonzero().flatten().tolist() == [0, 1, 2, 35]


@torch.no_grad()
def test_a_layer_is_asked_for_its_own_queries_and_keys_and_nothing_stays_of_it() -> None:
    model = tiny_lvlm("avg_pool", 4)
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    decoder, layer = model.decoder, model.decoder.layers[2]
    positions = torch.arange(5)[None]
    given = {"position_ids": positions, "position_embeddings": decoder.rotary_emb(hidden, positions)}
    query, key, scaling = ask(decoder, layer, hidden, given)
    model.set_attn_implementation("eager")
    weights = layer.self_attn(layer.input_layernorm(hidden), attention_mask=torch.zeros(1, 1, 5, 5), **given)[1]
    own = (query @ key.repeat_interleave(2, dim=1).mT * scaling).softmax(-1)
    torch.testing.assert_close(own, weights, atol=1e-6, rtol=1e-5)
    assert decoder.config._attn_implementation == "eager"


def test_a_decoder_of_another_kind_is_refused() -> None:
    model = tiny_lvlm("avg_pool", 4)
    layer = torch.nn.Module()
    layer.forward = lambda hidden, **given: hidden
    with pytest.raises(ValueError, match="does not go through the attention interface"):
        ask(model.decoder, layer, torch.zeros(1, 2, 32), {})


def test_positions_are_numbered_without_gaps_from_the_first_on() -> None:
    positions = torch.tensor([[0, 1, 2, 3, 7], [3, 4, 5, 8, 9]])
    seen = torch.tensor([[True] * 5, [False, False, True, True, True]])
    assert renumbered(positions, seen).tolist() == [[0, 1, 2, 3, 4], [5, 5, 5, 6, 7]]
