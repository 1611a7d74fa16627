"""Per-token probes: which glyph is under a vision token, before and after compression, refusion and pruning.

The question is the same at every tap, whatever its tokens cover: what stands on each patch of the image that holds a
glyph. A token over s x s patches is asked once for each of them, by a linear probe (ridge) of its own per place in the
window; a patch whose token was dropped counts as not read. So numbers can be compared along the depth and across
compression ratios. Scenes are those of the micro suites with most glyphs, ocr and doc; the probes are fitted on the
splits train and validation (of a seed that no model was trained on) and tested on test.

Nothing is stored: sums for the closed form are taken while the model runs, so memory does not grow with the scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vr_eval.methods.registry import projector_options
from vr_eval.micro.data import GLYPHS, GRID, scene
from vr_eval.micro.data.scene import Scene
from vr_eval.models.lvlm import LVLM
from vr_eval.probes.extract import Encodings, Subject

SUITES = ("ocr", "doc")
_SEED = 7
_BLANK = 0
_BLANK_SHARE = 0.25
"""Blank patches are nine in ten; this share of them is fitted, so that they do not outweigh all else."""


@dataclass(frozen=True)
class DenseResult:
    """One tap of one model.

    Attributes:
        correct: Glyphs read per test scene, ``(scenes,)``.
        total: Glyphs there per test scene.
        strength: Chosen on the validation split.
    """

    correct: NDArray[np.int64]
    total: NDArray[np.int64]
    strength: float


def can_be_dense(model: LVLM) -> bool:
    """Whether the tokens of a model stand over the micro suites' patches, each over as many."""
    keeps, sides = projector_options(model.config.projector).keeps_grid, (model.grid, model.tokens_per_side)
    return keeps and model.config.shapes.grid == GRID and all(GRID % side == 0 for side in sides)


def dense_probe(
    subject: Subject,
    scenes: tuple[int, int],
    strengths: Sequence[float],
    batch_size: int,
    progress: Callable[[int], None] = lambda images: None,
) -> dict[str, DenseResult]:
    """Tap to what can be read there.

    Args:
        subject: A model for which `can_be_dense`.
        scenes: Training and test scenes of each suite; as many validation scenes as a fourth of the training's.
        strengths: Of the ridge probes.
        batch_size: Scenes in one pass.
    """
    fitted, held, tested = ("train", scenes[0]), ("validation", max(1, scenes[0] // 4)), ("test", scenes[1])
    sums: dict[str, _Sums] = {}

    def gather(tap: str, tokens: Tensor, labels: Tensor, kept: Tensor) -> None:
        sums.setdefault(tap, _Sums(tokens.shape[-1], labels.shape[-1], tokens.device)).add(tokens, labels, kept)

    for taps in _passes(subject, fitted, batch_size, progress):
        for tap, (tokens, labels, kept) in taps.items():
            gather(tap, tokens, labels, kept)
    trial = {tap: found.solve(strengths) for tap, found in sums.items()}
    right = {tap: torch.zeros(len(strengths), dtype=torch.int64) for tap in sums}
    for taps in _passes(subject, held, batch_size, progress):
        for tap, (tokens, labels, kept) in taps.items():
            right[tap] += trial[tap].read(tokens, labels, kept).sum(1).cpu()
            gather(tap, tokens, labels, kept)
    order = sorted(range(len(strengths)), key=lambda i: -strengths[i])
    best = {tap: max(order, key=lambda i: int(right[tap][i])) for tap in sums}
    final = {tap: found.solve([strengths[best[tap]]]) for tap, found in sums.items()}
    correct: dict[str, list[Tensor]] = {tap: [] for tap in sums}
    totals: list[Tensor] = []
    for taps in _passes(subject, tested, batch_size, progress):
        for tap, (tokens, labels, kept) in taps.items():
            correct[tap].append(final[tap].read(tokens, labels, kept)[0].cpu())
        labels = next(iter(taps.values()))[1]
        totals.append((labels != _BLANK).sum((1, 2)).cpu())
    total = torch.cat(totals).numpy()
    return {tap: DenseResult(torch.cat(correct[tap]).numpy(), total, float(strengths[best[tap]])) for tap in sums}


Batch = dict[str, tuple[Tensor, Tensor, Tensor]]
"""Tap to tokens ``(B, N, width)``, glyphs under all places ``(B, P, s*s)``, and the place of each token ``(B, N)``."""


def _passes(
    subject: Subject, wanted: tuple[str, int], batch_size: int, progress: Callable[[int], None]
) -> Iterator[Batch]:
    split, count = wanted
    drawn = ((suite, index) for suite in SUITES for index in range(count))
    batch: list[Scene] = []
    for suite, index in drawn:
        batch.append(scene(suite, split, index, seed=_SEED, questions=0))
        if len(batch) == batch_size:
            yield _pass(subject, batch)
            progress(len(batch))
            batch = []
    if batch:
        yield _pass(subject, batch)
        progress(len(batch))


def _pass(subject: Subject, scenes: Sequence[Scene]) -> Batch:
    glyphs = torch.from_numpy(np.stack([one.glyphs for one in scenes]).astype(np.int64)).to(subject.model.device)
    found: Batch = {}

    def note(tap: str, tokens: Tensor, kept: Tensor | None) -> None:
        if tokens.shape[1] == 0:
            return
        side = subject.model.grid if tap.startswith("tower") else subject.model.tokens_per_side
        places = kept if kept is not None else torch.arange(side**2, device=tokens.device).expand(len(tokens), -1)
        found[tap] = tokens, under(glyphs, side), places

    encoded = Encodings([subject], subject.pixels([one.image for one in scenes])).of(subject)
    subject.run(encoded, len(scenes), note)
    return found


def under(glyphs: Tensor, side: int) -> Tensor:
    """The glyphs ``(B, side*side, s*s)`` under each token of a side x side grid, of patches ``(B, G, G)``."""
    step = glyphs.shape[1] // side
    return glyphs.unfold(1, step, step).unfold(2, step, step).flatten(3).flatten(1, 2)


class _Sums:
    """What ridge needs of the tokens seen so far; one classifier per place in the window."""

    def __init__(self, width: int, window: int, device: torch.device) -> None:
        self.gram = torch.zeros(window, width + 1, width + 1, dtype=torch.float64, device=device)
        self.cross = torch.zeros(window, width + 1, len(GLYPHS), dtype=torch.float64, device=device)

    def add(self, tokens: Tensor, labels: Tensor, kept: Tensor) -> None:
        """A batch, as in `Batch`."""
        x = torch.nn.functional.pad(tokens.double(), (0, 1), value=1.0).flatten(0, 1)
        y = labels.gather(1, kept[..., None].expand(-1, -1, labels.shape[-1])).flatten(0, 1)  # (tokens, s*s)
        for place in range(y.shape[1]):
            weight = torch.where(y[:, place] == _BLANK, _BLANK_SHARE, 1.0).double()
            weighted = x * weight[:, None]
            self.gram[place] += weighted.T @ x
            self.cross[place].index_add_(1, y[:, place], weighted.T)

    def solve(self, strengths: Sequence[float]) -> _Readers:
        """Classifiers for every strength, on standardised tokens."""
        count = self.gram[:, -1, -1, None]
        mean = self.gram[:, -1, :-1] / count
        centred = self.gram[:, :-1, :-1] / count[..., None] - mean[:, :, None] * mean[:, None]
        deviation = centred.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
        deviation = deviation.masked_fill(deviation <= 1e-6 * mean.abs().clamp(min=1e-6), 1.0)
        share = self.cross[:, -1] / count
        cross = (self.cross[:, :-1] / count[..., None] - mean[..., None] * share[:, None]) / deviation[..., None]
        values, vectors = torch.linalg.eigh(centred / (deviation[:, :, None] * deviation[:, None]))
        inner = vectors.mT @ cross
        weights = torch.stack([vectors @ (inner / (values.clamp(min=0) + s)[..., None]) for s in strengths])
        weights = weights / deviation[None, ..., None]
        return _Readers(weights.float(), (share - (weights * mean[None, ..., None]).sum(2)).float())


@dataclass(frozen=True)
class _Readers:
    """Weights ``(S, s*s, width, classes)`` and biases ``(S, s*s, classes)``."""

    weight: Tensor
    bias: Tensor

    def read(self, tokens: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
        """Glyphs that are read right, by strength and scene ``(S, B)``; arguments as in `Batch`."""
        y = labels.gather(1, kept[..., None].expand(-1, -1, labels.shape[-1]))  # (B, N, s*s)
        right = []
        for weight, bias in zip(self.weight, self.bias, strict=True):
            said = [(tokens.float() @ w + b).argmax(-1) for w, b in zip(weight, bias, strict=True)]
            right.append(((torch.stack(said, dim=-1) == y) & (y != _BLANK)).sum((1, 2)))
        return torch.stack(right)
