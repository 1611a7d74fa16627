"""Which tokens FastV and random pruning keep, and what the layers behind make of them: a walk by hand, with loops."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vr_eval.methods.base import VisionFeatures
from vr_eval.methods.reduction import Asked
from vr_eval.models.lvlm import LVLM
from vr_eval.testing.tiny import IMAGE, batch, pixels, prompt, tiny_lvlm

Parts = list[int | str]
SAMPLES: list[tuple[Parts, int]] = [
    ([10, "image", 11, 12], 2),
    ([13, "image", "image", 14, 15, 16, 17, 18], 2),
    ([19, 20, 21, 22], 1),
    (["image", 23, 24, 25, 26, 27], 4),
]
"""Text tokens and images, and how many tokens at the end are supervised, those between them too."""
CHOSEN: list[tuple[str, dict[str, Any]]] = [
    ("fastv", {}),
    ("fastv", {"query": "mean", "layer": 1, "keep_ratio": 0.3}),
    ("fastv", {"query": "mean", "mode": "mask", "layer": 3}),
    ("fastv", {"mode": "mask", "keep_ratio": 0.01}),
    ("random", {"layer": 1, "keep_ratio": 0.7}),
    ("random", {"layer": 3, "seed": 5}),
]


SCALING = 0.2
"""Of the attention scores, which not every decoder takes from the size of its heads."""


def asked(model: LVLM, number: int, hidden: Tensor, until: int, kind: str) -> list[float]:
    """The attention that each of the first `until` positions receives from them in layer `number`, mean over heads."""
    layer, config = model.decoder.layers[number], model.config.text_config
    normed = layer.input_layernorm(hidden)[0]
    query = layer.self_attn.q_proj(normed).numpy()
    key = layer.self_attn.k_proj(normed).numpy()
    size = config.hidden_size // config.num_attention_heads
    shared = config.num_attention_heads // config.num_key_value_heads
    received = [0.0] * until
    rows = [until - 1] if kind == "last" else list(range(until))
    for row in rows:
        for head in range(config.num_attention_heads):
            own = turned(model, query[row, head * size : (head + 1) * size], row)
            group = slice(head // shared * size, (head // shared + 1) * size)
            weight = [math.exp(SCALING * (own @ turned(model, key[p, group], p))) for p in range(row + 1)]
            for position, w in enumerate(weight):
                received[position] += w / sum(weight) / config.num_attention_heads / len(rows)
    return received


def turned(model: LVLM, vector: Any, position: int) -> Any:
    """A rotary embedding, pair by pair: channel i goes with channel i + half."""
    half = len(vector) // 2
    out = np.empty_like(vector)
    for i, frequency in enumerate(model.decoder.rotary_emb.inv_freq.tolist()):
        cos, sin = math.cos(position * frequency), math.sin(position * frequency)
        out[i] = vector[i] * cos - vector[i + half] * sin
        out[i + half] = vector[i + half] * cos + vector[i] * sin
    return out


def drawn(ids: Sequence[int], images: int, seed: int) -> list[float]:
    """One number for each vision token, a function of the prompt and the seed."""
    content = zlib.crc32(np.array(ids, dtype=np.int64).tobytes())
    return torch.rand(images, generator=torch.Generator().manual_seed(seed * 2**32 + content)).tolist()


def walked(model: LVLM, pruning: str, options: dict[str, Any], row: list[int], images: Tensor, until: int) -> Tensor:
    """The logits of one sample ``(S, vocabulary)``, or of what is kept of it."""
    given = {"layer": 2, "keep_ratio": 0.5, "query": "last", "mode": "drop", "seed": 0, **options}
    hidden = model.get_input_embeddings()(torch.tensor([row])).clone()
    vision = [place for place, token in enumerate(row) if token == IMAGE]
    if vision:
        maps = model.vision_tower(images, output_hidden_states=True).hidden_states[-1][:, 1:]
        hidden[0, vision] = model.projector(VisionFeatures(maps.unsqueeze(2), (4,))).flatten(0, 1)
    before, positions, mask = hidden, torch.arange(len(row))[None], None
    for number, layer in enumerate(model.decoder.layers):
        if number == given["layer"] and vision:
            if pruning == "random":
                scores = dict(zip(vision, drawn(row[:until], len(vision), given["seed"]), strict=True))
            else:
                received = asked(model, number - 1, before, until, given["query"])
                scores = {place: received[place] for place in vision}
            count = max(1, math.floor(len(vision) * given["keep_ratio"] + 0.5))
            best = sorted(vision, key=lambda place: -scores[place])[:count]
            kept = [place for place in range(len(row)) if row[place] != IMAGE or place in best]
            if given["mode"] == "drop":
                hidden, positions = hidden[:, kept], positions[:, kept]
            else:
                seen = [[key <= query and key in kept for key in range(len(row))] for query in range(len(row))]
                mask = torch.tensor(seen)[None, None]
        before = hidden
        hidden = layer(hidden, attention_mask=mask, position_embeddings=model.decoder.rotary_emb(hidden, positions))
    return model.language_model.lm_head(model.decoder.norm(hidden))[0]


def test_the_attention_that_all_rows_give_is_a_mean() -> None:
    """Every row gives 1 to those before it: so do all of them together, and the last alone."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(heads, 7, 4, generator=generator) for heads in (4, 2))
    asked = Asked(query, key, 0.5)
    for rows in ([6], [2, 5], list(range(7))):
        received = asked.received(torch.tensor(rows))
        torch.testing.assert_close(received.sum(), torch.ones(()))
        assert not received[max(rows) + 1 :].any()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("pruning", "options"), CHOSEN)
@torch.no_grad()
def test_every_sample_is_what_the_walk_finds_and_so_is_the_loss(pruning: str, options: dict[str, Any]) -> None:
    model = tiny_lvlm("avg_pool", 4, free=pruning, **options).double()
    for layer in model.decoder.layers:
        layer.self_attn.scaling = SCALING
    rows = [prompt(model, *parts) for parts, _ in SAMPLES]
    counts = [parts.count("image") for parts, _ in SAMPLES]
    images = pixels(sum(counts)).double()
    expected, losses, first = [], [], 0
    for row, count, (_, answer) in zip(rows, counts, SAMPLES, strict=True):
        found = walked(model, pruning, options, row, images[first : first + count], len(row) - answer)
        first += count
        expected.append(found)
        losses += [-found[i - 1].log_softmax(-1)[row[i]] for i in range(-answer, 0)]
    for side in ("left", "right"):
        ids, mask = batch(rows, side)
        labels = torch.full_like(ids, -100)
        for place, (row, (_, answer)) in enumerate(zip(rows, SAMPLES, strict=True)):
            end = ids.shape[1] if side == "left" else len(row)
            labels[place, end - answer : end] = ids[place, end - answer : end]
        out = model(ids, mask, images, labels=labels)
        torch.testing.assert_close(out.loss.double(), torch.stack(losses).mean(), atol=1e-6, rtol=1e-6)  # in float32
        if side == "left":
            for place, found in enumerate(expected):
                shown = SAMPLES[place][1] + 1
                torch.testing.assert_close(out.logits[place, -shown:], found[-shown:], atol=1e-9, rtol=0)
    first = 0
    for row, count, (_, answer), found in zip(rows, counts, SAMPLES, expected, strict=True):
        labels = torch.tensor([row])
        labels[0, : len(row) - answer] = -100
        alone = model(torch.tensor([row]), None, images[first : first + count] if count else None, labels=labels)
        first += count
        if options.get("mode") == "mask":  # what no one looks at is of no account
            alone.logits, found = alone.logits[:, -answer - 1 :], found[-answer - 1 :]
        torch.testing.assert_close(alone.logits[0], found, atol=1e-9, rtol=0)
