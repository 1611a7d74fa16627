"""Pre-training of the micro decoder: questions on the suites, over pooled features of the finished tower.

At first each image is asked about and then, last, transcribed as a whole: few supervised tokens an image would leave
the decoder at the answers' prior for thousands of steps. Every batch pools the features at one of several ratios, so
that no token count is left out; the projector that is trained along with it is thrown away, and every cell starts from
the same decoder with a fresh projector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config

from vr_eval.catalog.backbones import MICRO
from vr_eval.micro.data import COLOURS, GLYPHS
from vr_eval.models.build import assemble
from vr_eval.models.config import LVLMConfig
from vr_eval.training.conversation import Encoded
from vr_eval.training.data import collate
from vr_eval.training.templates import encode

RATIOS = (1, 4, 9)
_SILENT = frozenset({"blank", "bar", "line", "slice"})  # what fills areas and carries no value


def decoder_config(tokenizer: PreTrainedTokenizerBase) -> Qwen2Config:
    """A Qwen2 decoder with the sizes of the `micro` backbone."""
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=MICRO.decoder_width,
        intermediate_size=2 * MICRO.decoder_width,
        num_hidden_layers=MICRO.decoder_depth,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        # 1 / sqrt(width): Qwen2's 0.02 suits widths of thousands; here attention would start flat and stay so for long.
        initializer_range=MICRO.decoder_width**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def transcript(glyphs: NDArray[np.uint8], colours: NDArray[np.uint8]) -> str:
    """What stands on the patches, row by row: runs of one colour as `red 7K2A`, rows on lines of their own.

    Args:
        glyphs: ``(G, G)`` classes, indices into `GLYPHS`.
        colours: ``(G, G)`` classes, 1 + index into `COLOURS`.
    """
    names = ("", *COLOURS)
    lines = []
    for row, shades in zip(glyphs, colours, strict=True):
        runs: list[str] = []
        before = None
        for glyph, shade in zip(row, shades, strict=True):
            name = GLYPHS[glyph]
            if name in _SILENT:
                before = None
                continue
            text = name if len(name) == 1 else f" {name}"
            if shade == before:
                runs[-1] += text
            else:
                runs.append(f"{names[shade]} {text.strip()}")
                before = shade
        if runs:
            lines.append(" ".join(runs))
    return "\n".join(lines)


class MixedRatios(nn.Module):
    """One tower, decoder and MLP behind average pooling at several ratios; the batch's `ratio` picks one."""

    def __init__(self, tower: PreTrainedModel, decoder: PreTrainedModel, image_token_id: int) -> None:
        super().__init__()
        config = {
            ratio: LVLMConfig(
                tower.config,
                decoder.config,
                projector="avg_pool",
                ratio=ratio,
                select_layer=MICRO.select_layer,
                image_token_id=image_token_id,
            )
            for ratio in RATIOS
        }
        # A plain dictionary: the models share all weights, which are registered, and saved, once. (The decoder's head
        # is its embedding.)
        self.models = {ratio: assemble(config[ratio], tower, decoder) for ratio in RATIOS}
        self.decoder = decoder.get_decoder()
        self.projector = self.models[RATIOS[0]].projector
        for model in self.models.values():
            model.projector.mlp = self.projector.mlp

    def forward(self, ratio: Tensor, **batch: Tensor) -> Any:
        return self.models[int(ratio)](**batch)


class ConversationTurns(Dataset[dict[str, Any]]):
    """Questions and answers with features ``(n, G*G, D)``; encoded by the collator, which knows the ratio."""

    def __init__(self, turns: Sequence[Sequence[tuple[str, str]]], features: NDArray[np.float16]) -> None:
        self.turns, self.features = turns, features

    def __len__(self) -> int:
        return len(self.turns)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "turns": self.turns[index], "features": self.features[index][:, None]}


class MixedCollator:
    """Batches of turns encoded for one ratio, which the batch's first image picks (so a resumed run repeats it)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ratios: Sequence[int] = RATIOS) -> None:
        self.tokenizer, self.ratios = tokenizer, ratios
        self.encoded: dict[tuple[int, int], Encoded] = {}

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ratio = self.ratios[samples[0]["index"] % len(self.ratios)]
        rows = []
        for sample in samples:
            key = (sample["index"], ratio)
            if key not in self.encoded:
                self.encoded[key] = encode(self.tokenizer, sample["turns"], MICRO.grid**2 // ratio)
            encoded = self.encoded[key]
            rows.append({"input_ids": encoded.input_ids, "labels": encoded.labels, "features": sample["features"]})
        return {"ratio": torch.tensor(ratio), **collate(rows, self.tokenizer.pad_token_id)}
