"""Makes the embedded backbone and every checkpoint that travels with the project, from nothing.

Order: test sets, tokenizer, tower, decoder, then the cells of the shipped grids. A finished part is kept, so that an
interrupted build continues.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
    set_seed,
)

from vr_eval.catalog.backbones import MICRO, weight_files
from vr_eval.checksums import MANIFEST, write_weights_manifest
from vr_eval.config.checkpoint_folders import shipped_checkpoint
from vr_eval.config.grid import load_grid
from vr_eval.config.identity import checkpoint_id
from vr_eval.methods.levels import Level
from vr_eval.micro.build.decoder import (
    RATIOS,
    ConversationTurns,
    MixedCollator,
    MixedRatios,
    decoder_config,
    transcript,
)
from vr_eval.micro.build.tower import DenseDataset, DensePretraining, tower_config, unit_features
from vr_eval.micro.corpus import READ, Corpus, Turns, reading, training_corpus
from vr_eval.micro.data import COLOURS, GLYPHS, SUITES
from vr_eval.micro.data.store import write_test_sets
from vr_eval.micro.tokenizer import train_tokenizer
from vr_eval.models.build import DECODER, TOKENIZER, TOWER
from vr_eval.paths import home, resource
from vr_eval.training.cell import train_cell
from vr_eval.training.data import cached_features
from vr_eval.training.trainer import Group, Schedule, fit

IMAGES, QUESTIONS = 5000, 12
"""Training images a suite and questions an image that tower and decoder are pre-trained on."""
TOKENIZER_QUESTIONS = 4
"""Questions an image that the tokenizer is trained on."""
FACTS = 16
"""Facts an image at most, where facts are listed."""
TOWER_STAGE = Schedule("tower", steps=1800, batch_size=32, warmup=0.05, weight_decay=0.01)
TOWER_LR = 2e-3
DECODER_LR, DECODER_MUON_LR = 1e-3, 3e-3
"""Peak rates of embeddings, norms and projector, and of the matrices of the decoder's layers."""


@dataclass(frozen=True)
class DecoderStage:
    """A part of the decoder's curriculum."""

    stage: Schedule
    ratios: tuple[int, ...]
    images: tuple[str, ...] = SUITES
    """Beginnings of the scenes' keys: suites, or some of their forms; one that stands twice is drawn twice as often."""
    questions: int = QUESTIONS
    """Questions an image."""
    reading: Literal["transcript", "facts"] | None = None
    """What is read off the image after them."""


_STEADY = "constant_with_warmup"
_LOOKED_UP = ("chart|bar", "chart|line", "doc|_Table")
# Codes first: nothing in them can be guessed, so the decoder finds out how to look a colour up and read on from there.
# On all suites at once it stays at the answers' prior many times longer. Transcripts teach to read and then have to go:
# among their fifty tokens, the single one of a yes or a number would weigh next to nothing. What takes two steps, from
# a letter to its column and up to the bar, from header and row to a cell, or from a name to a count, needs stages of
# its own as the codes did. They overwrite the rest, down to the form of an answer, which the last stage brings back.
DECODER_STAGES = (
    DecoderStage(Schedule("codes", 1200, 24, 0.05, curve=_STEADY), (4,), ("ocr",), 4, "transcript"),
    DecoderStage(Schedule("all", 3200, 24, 0.01), RATIOS, questions=4, reading="transcript"),
    DecoderStage(Schedule("answers", 1800, 16, 0.01), (1, 4, 1, 9)),
    DecoderStage(Schedule("charts", 600, 16, 0.05, curve=_STEADY), (1,), ("chart",)),
    DecoderStage(Schedule("settle", 900, 16, 0.01), (1, 4, 1, 9)),
    DecoderStage(Schedule("facts", 500, 16, 0.03, curve=_STEADY), (1, 1, 4), questions=2, reading="facts"),
    DecoderStage(
        Schedule("steps", 500, 16, 0.03, curve=_STEADY), (1, 1, 4), (*_LOOKED_UP, "general"), 2, reading="facts"
    ),
    DecoderStage(Schedule("columns", 600, 16, 0.03, curve=_STEADY), (1,), _LOOKED_UP, 0, "facts"),
    DecoderStage(Schedule("counts", 300, 16, 0.03, curve=_STEADY), (1,), ("general",), 0, "facts"),
    DecoderStage(Schedule("mixed", 1600, 16, 0.03), (1, 4, 1, 9), questions=4, reading="facts"),
    DecoderStage(Schedule("hard", 1300, 16, 0.03, curve=_STEADY), (1,), (*_LOOKED_UP, "general"), 0, "facts"),
    DecoderStage(
        Schedule("finish", 3000, 16, 0.03), (1, 1, 4, 1, 9), ("chart", "general", *SUITES), questions=4, reading="facts"
    ),
)
SEED = 0
SHIPPED_GRIDS = ("projectors", "baselines", "refusion", "resolution")
"""Packaged grids whose checkpoints travel with the project."""


def build_weights(work: Path, folder: Path) -> None:
    """Tokenizer, tower and decoder of the `micro` backbone, float16, into `folder`; `work` holds what is unfinished."""
    corpus = training_corpus(IMAGES, QUESTIONS)
    if not (folder / TOKENIZER).is_dir():
        texts = [text for turns in corpus.turns for turn in turns[:TOKENIZER_QUESTIONS] for text in turn]
        texts += [READ, *COLOURS, *(f" {name}" for name in (*COLOURS, *GLYPHS) if len(name) > 1)]
        _finish(folder / TOKENIZER, train_tokenizer(texts).save_pretrained)
    tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER)
    if not (folder / TOWER).is_dir():
        tower = train_tower(corpus, work / TOWER)
        _finish(folder / TOWER, partial(_save_half, tower, [image_processor()]))
    if not (folder / DECODER).is_dir():
        # Read back, so that the decoder learns on the rounded weights that it will be used with.
        tower = CLIPVisionModel.from_pretrained(folder / TOWER, dtype=torch.float32)
        decoder = train_decoder(tower, tokenizer, corpus, work / DECODER)
        _finish(folder / DECODER, partial(_save_half, decoder, []))


def image_processor() -> CLIPImageProcessor:
    """CLIP's own preprocessing; a micro image already has the tower's size."""
    side = MICRO.image_px
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def train_tower(corpus: Corpus, out: Path) -> CLIPVisionModel:
    """A tower that knows the glyph, the colour and the place of every patch."""
    set_seed(SEED)
    model = DensePretraining(CLIPVisionModel(tower_config()))
    process = image_processor()

    def batches(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        pixels = process([sample["image"] for sample in samples], return_tensors="pt")["pixel_values"]
        labels = {name: torch.from_numpy(np.stack([s[name] for s in samples])).long() for name in corpus.labels}
        return {"pixel_values": pixels, **labels}

    dataset = DenseDataset(corpus.images, corpus.labels)
    fit(model, dataset, batches, TOWER_STAGE, [Group(list(model.parameters()), TOWER_LR)], out, SEED)
    tower = model.tower.eval()
    unit_features(tower, process(corpus.images[:: len(corpus.images) // 256], return_tensors="pt")["pixel_values"])
    return tower


def train_decoder(
    tower: CLIPVisionModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, out: Path
) -> Qwen2ForCausalLM:
    """A decoder that answers the suites' questions from pooled features of `tower` at several ratios."""
    set_seed(SEED)
    decoder = Qwen2ForCausalLM(decoder_config(tokenizer))
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    model = MixedRatios(tower.eval(), decoder, image_token)
    process = image_processor()

    def encode(images: Sequence[Any], levels: tuple[Level, ...]) -> Tensor:
        pixels = process(list(images), return_tensors="pt")["pixel_values"]
        return model.models[1].encode_images(pixels, levels)

    features = cached_features(out / "features", (MICRO.select_layer,), corpus.images, encode)
    matrices = [parameter for parameter in decoder.model.layers.parameters() if parameter.ndim == 2]
    by_muon = set(matrices)
    others = [parameter for parameter in decoder.parameters() if parameter not in by_muon]
    groups = [
        Group([*model.projector.parameters(), *others], DECODER_LR),
        Group(matrices, DECODER_MUON_LR, muon=True),
    ]
    for part in DECODER_STAGES:
        rows = [row for start in part.images for row, key in enumerate(corpus.keys) if key.startswith(start)]
        dataset = ConversationTurns(conversations(corpus, part), features[0])
        collator = MixedCollator(tokenizer, part.ratios)
        fit(model, Subset(dataset, rows), collator, part.stage, groups, out / part.stage.name, SEED)
    return decoder.eval()


def conversations(corpus: Corpus, part: DecoderStage) -> list[Turns]:
    """One training sequence per image; what is read off it comes last: an answer after that could be copied."""
    asked = [turns[: part.questions] for turns in corpus.turns]
    match part.reading:
        case None:
            return asked
        case "facts":
            read = [reading(facts, FACTS, image) for image, facts in enumerate(corpus.facts)]
        case "transcript":
            square = (-1, MICRO.grid, MICRO.grid)
            labels = zip(corpus.labels["glyphs"].reshape(square), corpus.labels["colours"].reshape(square), strict=True)
            read = [[(READ, transcript(glyphs, colours))] for glyphs, colours in labels]
    return [[*turns, *last] for turns, last in zip(asked, read, strict=True)]


def _finish(folder: Path, save: Callable[[Path], object]) -> None:
    """Save under another name and rename: a folder that is there is complete."""
    partial_folder = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    save(partial_folder)
    partial_folder.replace(folder)


def _save_half(model: PreTrainedModel, rest: Sequence[Any], folder: Path) -> None:
    model.half().save_pretrained(folder)
    model.float()
    for part in rest:
        part.save_pretrained(folder)


def build_all(say: Callable[[str], None] = print) -> None:
    """Everything that the embedded default consists of: test sets, backbone, checkpoints. Some hours on 2 cores.

    Finished parts are kept; to make one anew, delete it first.

    Raises:
        InputError: a folder of the package cannot be written.
        VrEvalError: a training diverged.
    """
    say("test sets")
    write_test_sets(resource("tasks") / "vr_micro" / "data")
    assert MICRO.weights is not None
    say("tokenizer, vision tower, decoder")
    build_weights(home() / "micro-build", MICRO.weights)
    write_weights_manifest(MICRO.weights, [name for name, *_ in weight_files(MICRO.weights)])
    cells = {checkpoint_id(cell): cell for name in SHIPPED_GRIDS for cell in load_grid(Path(name)).cells}
    for cell in cells.values():
        folder = shipped_checkpoint(cell)
        if not (folder / MANIFEST).is_file():
            say(f"{cell.label}, seed {cell.seed}: {cell.recipe.steps} steps")
            train_cell(cell, folder)
