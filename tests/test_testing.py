"""`check_method` passes a sound method of someone else's, and names what is wrong with a broken one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.outside import vr_outside
from tests.outside.vr_outside import SPEC, MaxPool, MaxPoolOptions
from vr_eval import testing
from vr_eval.layers.rows import Rows
from vr_eval.methods.base import Shapes, VisionFeatures
from vr_eval.methods.fastv.module import FastV
from vr_eval.methods.fastv.spec import SPEC as FASTV
from vr_eval.methods.reduction import Sample
from vr_eval.methods.registry import METHODS
from vr_eval.methods.spec import MethodSpec
from vr_eval.testing import check_method


class MixesImages(MaxPool):
    def forward(self, features: VisionFeatures) -> Tensor:
        tokens = super().forward(features)
        return tokens - tokens.mean(0, keepdim=True)


class MixesNothingButOneImage(MaxPool):
    """Sees that there are several images; the first of them alone is as it should be."""

    def forward(self, features: VisionFeatures) -> Tensor:
        tokens = super().forward(features)
        return torch.cat([tokens[:1], tokens[1:] + 1.0])


class TooManyTokens(MaxPool):
    def forward(self, features: VisionFeatures) -> Tensor:
        return super().forward(features).repeat(1, 2, 1)


class Blind(MaxPool):
    def forward(self, features: VisionFeatures) -> Tensor:
        tokens = super().forward(features)
        return tokens * 0 + self.linear.weight.sum()


class Unread(MaxPool):
    def __init__(self, shapes: Shapes, options: MaxPoolOptions) -> None:
        super().__init__(shapes, options)
        self.forgotten = nn.Parameter(torch.ones(3))


class Detached(MaxPool):
    def __init__(self, shapes: Shapes, options: MaxPoolOptions) -> None:
        super().__init__(shapes, options)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, features: VisionFeatures) -> Tensor:
        return super().forward(features) * (1 + 0 * self.scale)


class InOneType(MaxPool):
    def forward(self, features: VisionFeatures) -> Tensor:
        tokens = super().forward(features)
        return self.linear(features.level(self.levels[0]).float()) if tokens.dtype == torch.bfloat16 else tokens


class KeepsABuffer(MaxPool):
    def __init__(self, shapes: Shapes, options: MaxPoolOptions) -> None:
        super().__init__(shapes, options)
        self.register_buffer("table", torch.ones(4))


class NeverLoaded(MaxPool):
    """A buffer that no checkpoint holds and nobody makes again."""

    def __init__(self, shapes: Shapes, options: MaxPoolOptions) -> None:
        super().__init__(shapes, options)
        self.register_buffer("table", torch.arange(1.0, 1 + shapes.decoder_width), persistent=False)

    def forward(self, features: VisionFeatures) -> Tensor:
        return super().forward(features) * self.table


class AlwaysDrops(MaxPool):
    def forward(self, features: VisionFeatures) -> Tensor:
        return F.dropout(super().forward(features), 0.5)


class MergesWrongly(MaxPool):
    def to_inference(self) -> None:
        self.linear.weight.data *= 1.01


class Remembers(MaxPool):
    calls = 0

    def forward(self, features: VisionFeatures) -> Tensor:
        self.calls += 1
        return super().forward(features) * self.calls


class ReadsWhatItDoesNotName(MaxPool):
    def forward(self, features: VisionFeatures) -> Tensor:
        features.level(1)
        return super().forward(features)


class CountsItsSamples(FastV):
    seen = 0

    def choose(self, step: int, sample: Sample) -> Rows:
        self.seen += 1
        return super().choose(step, sample) if self.seen % 2 else Rows.of(torch.arange(len(sample.image)))


def projector(cls: type[nn.Module], **changes: Any) -> MethodSpec:
    return dataclasses.replace(SPEC, name="broken", module=__name__, cls=cls.__name__, **changes)


@pytest.fixture(autouse=True)
def _registry_stays() -> Any:
    before = dict(METHODS)
    yield
    assert before == METHODS


def test_a_sound_method_passes() -> None:
    assert SPEC.module == vr_outside.__name__
    check_method(SPEC)


@pytest.mark.parametrize(
    ("cls", "check", "why"),
    [
        (MixesImages, "makes_the_tokens_it_says", "Tensor-likes are not close"),
        (MixesNothingButOneImage, "makes_the_tokens_it_says", "Tensor-likes are not close"),
        (TooManyTokens, "makes_the_tokens_it_says", "not 144 tokens"),
        (KeepsABuffer, "counts_parameters", "table is no parameter"),
        (AlwaysDrops, "makes_the_tokens_it_says", "Tensor-likes are not close"),
        (ReadsWhatItDoesNotName, "makes_the_tokens_it_says", "hidden state 1 was not kept"),
        (Remembers, "makes_the_tokens_it_says", "Tensor-likes are not close"),
        (Blind, "images_matter", "the logits do not depend on the images"),
        (MergesWrongly, "inference_version", "Tensor-likes are not close"),
        (Unread, "inference_parameters", "nothing reads forgotten"),
        (NeverLoaded, "saved_and_loaded", ""),
        (InOneType, "bfloat16", ""),
        (Detached, "gradients_reach", "the gradient of scale is zero"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_projector_is_named_with_what_is_wrong(cls: type[nn.Module], check: str, why: str) -> None:
    with pytest.raises(AssertionError, match=rf"^broken.*: {check}: ") as caught:
        check_method(projector(cls))
    assert why in str(caught.value)


def test_a_reduction_that_hangs_on_other_samples_is_caught() -> None:
    spec = dataclasses.replace(FASTV, name="broken", module=__name__, cls="CountsItsSamples")
    with pytest.raises(AssertionError, match="the logits differ"):
        check_method(spec)


@dataclasses.dataclass(frozen=True)
class Plain(MaxPoolOptions):
    depth: int = 2


@dataclasses.dataclass(frozen=True)
class SaysMore(MaxPoolOptions):
    def tokens(self, grid: int, ratio: int) -> int:
        return super().tokens(grid, ratio) + 1


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"options": Plain}, "describes_itself"),
        ({"options": SaysMore}, "makes_the_tokens_it_says"),
        ({"trainable": False}, "describes_itself"),
        ({"options": FASTV.options, "trainable": False}, "is_of_its_seam"),
        ({"version": 0}, "describes_itself"),
    ],
)
def test_a_method_that_says_what_is_not_so_is_caught(changes: dict[str, Any], check: str) -> None:
    with pytest.raises(AssertionError, match=rf"^broken: {check}: "):
        check_method(projector(MaxPool, **changes))


def test_what_is_no_method_is_one_error() -> None:
    with pytest.raises(AssertionError, match="no method is called max_poool"):
        check_method("max_poool")
    with pytest.raises(AssertionError, match="the name mlp is taken"):
        check_method(dataclasses.replace(SPEC, name="mlp"))


def test_it_needs_no_pytest() -> None:
    for file in Path(testing.__file__).parent.glob("*.py"):
        assert "import pytest" not in file.read_text(encoding="utf-8")
