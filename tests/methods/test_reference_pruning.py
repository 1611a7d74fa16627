"""Which tokens reductions keep, and what the layers behind make of them: a walk by hand, with loops."""

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
    ("pyramiddrop", {}),
    ("pyramiddrop", {"layers": (1, 3), "ratios": (0.4, 0.05), "positions": "original"}),
    ("divprune", {}),
    ("divprune", {"keep_ratio": 0.3, "positions": "original"}),
    ("dart", {}),
    ("dart", {"layer": 3, "keep_ratio": 0.2, "pivots": 2}),
    ("uniform", {"keep_ratio": 0.3}),
    ("uniform", {"layer": 2, "positions": "renumbered"}),
]


SCALING = 0.2
"""Of the attention scores, which not every decoder takes from the size of its heads."""


def asked(model: LVLM, number: int, hidden: Tensor, positions: Sequence[int], until: int, kind: str) -> list[float]:
    """The attention that each of the first `until` tokens receives from them in layer `number`, mean over heads."""
    config = model.config.text_config
    query, key = projected(model, number, hidden, "q_proj"), projected(model, number, hidden, "k_proj")
    size = config.hidden_size // config.num_attention_heads
    shared = config.num_attention_heads // config.num_key_value_heads
    received = [0.0] * until
    rows = [until - 1] if kind == "last" else list(range(until))
    for row in rows:
        for head in range(config.num_attention_heads):
            own = turned(model, query[row, head * size : (head + 1) * size], positions[row])
            group = slice(head // shared * size, (head // shared + 1) * size)
            weight = [math.exp(SCALING * (own @ turned(model, key[p, group], positions[p]))) for p in range(row + 1)]
            for position, w in enumerate(weight):
                received[position] += w / sum(weight) / config.num_attention_heads / len(rows)
    return received


def projected(model: LVLM, number: int, hidden: Tensor, name: str) -> Any:
    """Queries or keys of one layer, all heads side by side."""
    layer = model.decoder.layers[number]
    return getattr(layer.self_attn, name)(layer.input_layernorm(hidden)[0]).numpy()


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


def rounded(ratio: float, count: int) -> int:
    return max(1, math.floor(count * ratio + 0.5))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def far_apart(tokens: Tensor, count: int) -> list[int]:
    """DivPrune, pair by pair."""
    apart = [[1 - cosine(a, b) for b in tokens] for a in tokens]
    total = len(tokens)
    nearest = [min((apart[i][j] for j in range(total) if j != i), default=0.0) for i in range(total)]
    chosen = [max(range(total), key=lambda i: nearest[i])]
    while len(chosen) < count:
        others = [i for i in range(total) if i not in chosen]
        chosen.append(max(others, key=lambda i: min(apart[i][j] for j in chosen)))
    return chosen


def unlike(tokens: Tensor, keys: Any, count: int, pivots: int) -> list[int]:
    """DART, pair by pair."""
    first = sorted(range(len(tokens)), key=lambda i: -float(np.linalg.norm(keys[i])))[: min(pivots, count)]
    others = [i for i in range(len(tokens)) if i not in first]
    others.sort(key=lambda i: max(cosine(tokens[i], tokens[j]) for j in first))
    return [*first, *others][:count]


class Walk:
    """One sample on its way through the decoder, as lists of what is left of it."""

    def __init__(self, model: LVLM, name: str, options: dict[str, Any], row: list[int], until: int) -> None:
        self.model, self.name, self.prompt, self.answer = model, name, row[:until], len(row) - until
        usual: dict[str, Any] = {"layer": 2, "keep_ratio": 0.5, "query": "last", "mode": "drop", "seed": 0, "pivots": 4}
        usual |= {"layers": (1, 2, 3), "ratios": (0.5, 0.25, 0.125), "positions": "original"}
        own = {"divprune": {"layer": 0, "keep_ratio": 0.098}, "uniform": {"layer": 0}}.get(name, {})
        renumbers = {"positions": "renumbered"} if name in ("divprune", "pyramiddrop") else {}
        self.given = usual | own | renumbers | options
        self.places = list(self.given["layers"]) if name == "pyramiddrop" else [self.given["layer"]]
        self.positions = list(range(len(row)))
        tokens = model.tokens_per_image
        vision = [place for place, token in enumerate(row) if token == IMAGE]
        self.image = [vision.index(place) // tokens if place in vision else None for place in range(len(row))]
        self.first = {image: tokens for image in self.image if image is not None}

    def images(self) -> list[list[int]]:
        """Where the tokens of each image stand now."""
        return [[place for place, own in enumerate(self.image) if own == image] for image in self.first]

    def kept(self, number: int, hidden: Tensor, before: Tensor) -> list[int]:
        """The vision tokens that go on in front of layer `number`, by where they stand now."""
        given, until = self.given, len(self.positions) - self.answer
        if self.name in ("fastv", "random"):
            together = [place for image in self.images() for place in image]
            if self.name == "random":
                scores = dict(zip(together, drawn(self.prompt, len(together), given["seed"]), strict=True))
            else:
                received = asked(self.model, number - 1, before, self.positions, until, given["query"])
                scores = {place: received[place] for place in together}
            return sorted(together, key=lambda place: -scores[place])[: rounded(given["keep_ratio"], len(together))]
        return [
            place
            for image, at in zip(self.first, self.images(), strict=True)
            for place in self.of_image(number, hidden, at, self.first[image], until)
        ]

    def of_image(self, number: int, hidden: Tensor, at: list[int], total: int, until: int) -> list[int]:
        given, count = self.given, rounded(self.given["keep_ratio"], len(at))
        if self.name == "pyramiddrop":
            received = asked(self.model, number, hidden, self.positions, until, "last")
            ratio = given["ratios"][self.places.index(number)]
            return sorted(at, key=lambda place: -received[place])[: max(1, int(ratio * total))]
        if self.name == "uniform":
            return [at[math.floor((i + 0.5) * len(at) / count)] for i in range(count)]
        tokens = hidden[0, at]
        if self.name == "divprune":
            return [at[i] for i in far_apart(tokens, count)]
        keys = projected(self.model, number, hidden, "k_proj")[at]
        return [at[i] for i in unlike(tokens, keys, count, given["pivots"])]

    def go_on(self, stays: list[int]) -> None:
        self.image = [self.image[place] for place in stays]
        renumber = self.given["positions"] == "renumbered"
        self.positions = list(range(len(stays))) if renumber else [self.positions[place] for place in stays]


def walked(model: LVLM, name: str, options: dict[str, Any], row: list[int], images: Tensor, until: int) -> Tensor:
    """The logits of one sample ``(S, vocabulary)``, or of what is kept of it."""
    walk = Walk(model, name, options, row, until)
    hidden = model.get_input_embeddings()(torch.tensor([row])).clone()
    vision = [place for place, token in enumerate(row) if token == IMAGE]
    if vision:
        maps = model.vision_tower(images, output_hidden_states=True).hidden_states[-1][:, 1:]
        hidden[0, vision] = model.projector(VisionFeatures(maps.unsqueeze(2), (4,))).flatten(0, 1)
    before, mask = hidden, None
    for number, layer in enumerate(model.decoder.layers):
        if number in walk.places and vision:
            best = walk.kept(number, hidden, before)
            stays = [place for place, image in enumerate(walk.image) if image is None or place in best]
            if walk.given["mode"] == "drop":
                hidden = hidden[:, stays]
                walk.go_on(stays)
            else:
                seen = [[key <= query and key in stays for key in range(len(row))] for query in range(len(row))]
                mask = torch.tensor(seen)[None, None]
        before = hidden
        at = torch.tensor([walk.positions])
        hidden = layer(hidden, attention_mask=mask, position_embeddings=model.decoder.rotary_emb(hidden, at))
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
