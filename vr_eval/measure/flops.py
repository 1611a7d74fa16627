"""Floating-point operations of one prefill, counted while the model runs: no layer has a formula of ours.

Notable:
- counted: matrix products, convolutions and attention (PyTorch's FlopCounterMode), and attention inside windows, which
  is no matrix product and makes itself known (layers/attention.py);
- a multiply-add is two operations;
- attention counts every pair of positions that is handed to it; a causal mask does not halve it;
- not counted: norms, activations, softmax, pooling, interpolation, looking up and moving of entries;
- the same on every device: attention runs in its plain form while it is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from vr_eval.layers.attention import window_attention
from vr_eval.measure.question import PROMPT_TOKENS, example
from vr_eval.models.lvlm import LVLM
from vr_eval.records.costs import PrefillFlops

GIGA = 1e9


class _WindowAttention(TorchFunctionMode):
    """Counts attention inside windows: scores and weighted sum, a multiply-add each per channel and cell."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is window_attention:
            key: Tensor = args[1]  # (T, W, C)
            self.flops += 2 * 2 * key.numel()
        return func(*args, **(kwargs or {}))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """FlopCounterMode follows gradients through modules, and takes no parameter that wants one as a module's input."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@torch.no_grad()
def count_flops(model: nn.Module, call: Callable[[], object]) -> int:
    """Floating-point operations of one call of `model`, two per multiply-add."""
    windows, counter = _WindowAttention(), FlopCounterMode(display=False)
    with _frozen(model), sdpa_kernel(SDPBackend.MATH), counter, windows:
        call()
    return int(counter.get_total_flops()) + windows.flops


def prefill_flops(model: LVLM, text_tokens: int = PROMPT_TOKENS) -> PrefillFlops:
    """Operations of one prefill of `model` for one image and a prompt of `text_tokens` tokens."""
    given = example(model, text_tokens)
    total = count_flops(model, lambda: model(**given))
    tower = count_flops(model, lambda: model.encode_images(given["pixel_values"]))
    vision_tokens = given["input_ids"].shape[1] - text_tokens
    return PrefillFlops(total / GIGA, tower / GIGA, vision_tokens, text_tokens)
