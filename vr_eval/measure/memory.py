"""Memory of one prefill: what stays for the decode steps, and on a GPU the peak on the way there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vr_eval.measure.question import PROMPT_TOKENS, example
from vr_eval.models.lvlm import LVLM


@torch.no_grad()
def kv_cache_bytes(model: LVLM, text_tokens: int = PROMPT_TOKENS, batch: int = 1) -> int:
    """Bytes of all keys and values after one prefill; pruning shortens those of the layers that it precedes."""
    cache: Any = model(**example(model, text_tokens, batch)).past_key_values
    return sum(
        tensor.numel() * tensor.element_size() for layer in cache.layers for tensor in (layer.keys, layer.values)
    )


@torch.no_grad()
def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Peak of the GPU memory held by tensors during one call, weights included; None on a CPU, which keeps no count."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device))
