"""Checks of what becomes of a model: trained, merged for inference, saved, and in half precision.

Each takes a tiny model in eval mode, leaves it as it was, and raises an AssertionError; its docstring says what holds.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from vr_eval.layers.rows import Rows
from vr_eval.methods.reduction import Reduction, Sample
from vr_eval.models.lvlm import LVLM
from vr_eval.testing.require import require
from vr_eval.testing.tiny import pixels, prompt


@torch.no_grad()
def inference_version(model: LVLM) -> None:
    """The inference version stays within 1e-4, learns nothing, and is its own inference version."""
    ids = torch.tensor([prompt(model, 5, "image", 6, 7), prompt(model, 8, "image", 9, 10)])
    trained = model(ids, None, pixels(2)).logits
    merged = copy.deepcopy(model).to_inference()
    found = merged(ids, None, pixels(2)).logits
    assert_close(found, trained, atol=1e-4, rtol=0)
    require(not any(parameter.requires_grad for parameter in merged.parameters()), "some of its parameters would learn")
    require(torch.equal(merged.to_inference()(ids, None, pixels(2)).logits, found), "merging twice changes it")


def inference_parameters(model: LVLM) -> None:
    """The inference version holds no parameter that nothing reads, not more than were trained, and is not saved."""
    merged = copy.deepcopy(model).to_inference()
    for part in _parts(merged):
        part.requires_grad_(True)
    ids = torch.tensor([prompt(merged, 5, "image", 6, 7, 8)])
    merged(ids, None, pixels(1)).logits[0, -1].square().sum().backward()
    unread = [name for part in _parts(merged) for name, value in part.named_parameters() if value.grad is None]
    require(not unread, f"nothing reads {', '.join(unread)}")
    require(_count(merged) <= _count(model), f"it has {_count(merged)} parameters, more than {_count(model)}")
    try:
        merged.save_pretrained("nowhere")
    except ValueError:
        return
    raise AssertionError("it can be saved as if it were a checkpoint")


@torch.no_grad()
def saved_and_loaded(model: LVLM) -> None:
    """Saved and loaded, it has the same parameters and gives the same logits."""
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = LVLM.from_pretrained(folder).eval()
    state = loaded.state_dict()
    other = [name for name, value in model.state_dict().items() if not torch.equal(state[name], value)]
    require(not other, f"{', '.join(other)} came back otherwise")
    # Convolutions choose their algorithm by how the weights lie in memory: equal in float64, not bit for bit.
    got, expected = (twin.double()(ids, None, pixels(1)).logits for twin in (loaded, copy.deepcopy(model)))
    assert_close(got, expected, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def bfloat16(model: LVLM) -> None:
    """In bfloat16 it runs, and stays close."""
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    exact, rounded = copy.deepcopy(model), copy.deepcopy(model).to(torch.bfloat16)
    if exact.pruning is not None and rounded.pruning is not None:
        _choose_alike(exact.pruning, rounded.pruning)
    whole, out = (twin(ids, None, pixels(1)).logits for twin in (exact, rounded))
    require(out.dtype == torch.bfloat16, f"the logits are {out.dtype}")
    require(out.shape == whole.shape, "the logits have another shape")
    # After the image, where nothing of what was dropped stood.
    difference, expected = (out.float() - whole)[0, -2:], whole[0, -2:]
    apart = float(difference.norm() / expected.norm())
    require(apart < 0.2, f"the logits are {apart:.0%} away from those in float32")


def _choose_alike(first: Reduction, second: Reduction) -> None:
    """Let `second`, whatever it would choose, leave what `first` left: of tokens almost alike, rounding chooses."""
    left: list[Rows] = []
    choose, other = first.choose, second.choose

    def chosen(step: int, sample: Sample) -> Rows:
        left.append(choose(step, sample))
        return left[-1]

    def follow(step: int, sample: Sample) -> Rows:
        other(step, sample)
        return left.pop(0)

    first.choose, second.choose = chosen, follow  # type: ignore[method-assign]


def gradients_reach(model: LVLM) -> None:
    """A gradient reaches every parameter of a method."""
    twin = copy.deepcopy(model).train()
    _loss(twin, torch.tensor([prompt(twin, 5, "image", 6, 7, 8)]), 1).backward()
    for name, parameter in _learned(twin):
        gradient = parameter.grad
        if gradient is None:
            raise AssertionError(f"{name} has no gradient")
        require(torch.isfinite(gradient).all(), f"the gradient of {name} is not finite")
        # Softmax does not see what is added to all keys alike.
        if not ("k_proj" in name and "bias" in name):
            require(gradient.abs().sum() > 0, f"the gradient of {name} is zero")


def gradient_checkpointing(model: LVLM) -> None:
    """Gradient checkpointing changes no gradient."""
    ids = torch.tensor([prompt(model, 5, "image", 6, 7)])
    grads = []
    for checkpointing in (False, True):
        twin = copy.deepcopy(model).train().requires_grad_(True)
        if checkpointing:
            twin.gradient_checkpointing_enable({"use_reentrant": False})
        _loss(twin, ids, 2).backward()
        grads.append({name: value.grad for name, value in twin.named_parameters() if value.grad is not None})
    require(grads[0].keys() == grads[1].keys(), "other parameters have a gradient")
    for name, gradient in grads[0].items():
        alike = torch.allclose(gradient, grads[1][name], atol=1e-6, rtol=1e-4)
        require(alike, f"the gradient of {name} differs by {(gradient - grads[1][name]).abs().max():.1e}")


VERSIONS = (
    *(inference_version, inference_parameters, saved_and_loaded, bfloat16),
    *(gradients_reach, gradient_checkpointing),
)
"""All of them, in the order in which they are run."""


def _parts(model: LVLM) -> list[nn.Module]:
    return [part for part in (model.projector, model.refusion) if part is not None]


def _count(model: LVLM) -> int:
    return sum(parameter.numel() for part in _parts(model) for parameter in part.parameters())


def _learned(model: LVLM) -> Iterator[tuple[str, nn.Parameter]]:
    for part in _parts(model):
        yield from part.named_parameters()


def _loss(model: LVLM, ids: Tensor, supervised: int) -> Tensor:
    """The loss of the last tokens of one prompt with one image."""
    labels = ids.clone()
    labels[:, :-supervised] = -100
    loss: Tensor = model(ids, None, pixels(1), labels=labels).loss
    return loss
