"""Runs a pruning method inside a Hugging Face decoder, without copying any of its code.

Layers from K on get a shorter sequence: hidden states, rotary embeddings and positions of what stays, with its original
positions, and a mask of its own length. Their cache is shorter too; what was kept is remembered on the cache itself,
for its decode steps, and goes with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import AttentionMaskInterface, create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from vr_eval.layers.attention import attention_rows
from vr_eval.methods.base import Pruning, PruningInput

_CAPTURE = "vr_eval_capture"
_KEPT = "_vr_eval_kept"


@dataclass
class Kept:
    """What layers from K on hold after prefill."""

    index: Tensor | None = None
    """``(B, L)`` positions in the full sequence; None in mask mode."""
    mask: Tensor | None = None
    """``(B, L)`` bool: which of them may be looked at."""


@dataclass
class _Recorder:
    layer: int
    implementation: str
    query: str
    prompt: Tensor
    received: Tensor | None = None


_recorder: ContextVar[_Recorder | None] = ContextVar("recorder", default=None)


@contextmanager
def pruned(
    decoder: PreTrainedModel,
    pruning: Pruning | None,
    given: PruningInput | None,
    seen: Tensor | None,
    cache: Cache | None,
) -> Iterator[Kept]:
    """For the duration of one forward pass of `decoder`, let only what `pruning` keeps go on from its layer.

    At prefill `given` holds what the method chooses from; at a decode step it is None, and the choice made at prefill
    is read from `cache`. Where no choice was made (a prompt without images) nothing changes. `seen` is the attention
    mask ``(B, S)``, None where nothing is padded.
    """
    kept = getattr(cache, _KEPT, None) if given is None else Kept()
    if kept is None or pruning is None:
        yield Kept()
        return
    hooks = _Hooks(decoder, pruning, given, seen, cache, kept)
    handles = []
    token = None
    implementation = decoder.config._attn_implementation
    try:
        layers = list(decoder.layers)[pruning.layer :]
        handles = [layer.register_forward_pre_hook(hooks.before_layer, with_kwargs=True) for layer in layers]
        if given is not None and pruning.query is not None:
            recorder = _Recorder(pruning.layer - 1, implementation, pruning.query, given.prompt)
            token = _recorder.set(recorder)
            masks = AttentionMaskInterface()
            AttentionInterface.register(_CAPTURE, _capture)
            AttentionMaskInterface.register(_CAPTURE, masks[implementation])
            decoder.config._attn_implementation = _CAPTURE
        yield kept
        if given is not None and cache is not None:
            setattr(cache, _KEPT, kept)
    finally:
        decoder.config._attn_implementation = implementation
        if token is not None:
            _recorder.reset(token)
        for handle in handles:
            handle.remove()


class _Hooks:
    """What changes at the entrance of the layers from K on."""

    def __init__(
        self,
        decoder: PreTrainedModel,
        pruning: Pruning,
        given: PruningInput | None,
        seen: Tensor | None,
        cache: Cache | None,
        kept: Kept,
    ) -> None:
        self.decoder, self.pruning, self.cache = decoder, pruning, cache
        self.given, self.seen, self.kept = given, seen, kept
        self.replaced: dict[str, Any] | None = None

    def before_layer(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden, *rest = args
        if self.replaced is None:  # layer K
            if self.given is not None:
                self._choose(self.given)
            index = self.kept.index if self.given is not None else None
            hidden = hidden if index is None else take(hidden, index)
            self.replaced = {"attention_mask": self._mask(hidden)}
            if index is not None:
                self.replaced["position_ids"] = take(kwargs["position_ids"], index)
                self.replaced["position_embeddings"] = tuple(take(p, index) for p in kwargs["position_embeddings"])
        return (hidden, *rest), {**kwargs, **self.replaced}

    def _choose(self, given: PruningInput) -> None:
        recorder = _recorder.get()
        attention = recorder.received if recorder is not None else None
        chosen = self.pruning.select(replace(given, attention=attention))
        stays = ~given.vision | chosen
        seen = stays if self.seen is None else stays & self.seen.bool()
        if self.pruning.mode == "mask":
            self.kept.mask = seen
            return
        # Kept positions in order, right-aligned: rows that keep fewer are filled with dropped ones, masked out.
        longest = int(stays.sum(1).max())
        self.kept.index = stays.int().argsort(dim=1, stable=True)[:, -longest:]
        self.kept.mask = seen.gather(1, self.kept.index)

    def _mask(self, hidden: Tensor) -> Any:
        past = self.cache.get_seq_length(self.pruning.layer) if self.cache is not None else 0
        assert self.kept.mask is not None
        new = past + hidden.shape[1] - self.kept.mask.shape[1]
        mask = nn.functional.pad(self.kept.mask, (0, new), value=True)
        return create_causal_mask(
            self.decoder.config, hidden, mask, self.cache, position_ids=None, layer_idx=self.pruning.layer
        )


def take(tensor: Tensor, index: Tensor) -> Tensor:
    """Places ``(B, L, ...)`` of `tensor` ``(B or 1, S, ...)`` at `index` ``(B, L)``."""
    rows = tensor.expand(len(index), *tensor.shape[1:])
    return rows[torch.arange(len(index), device=index.device)[:, None], index]


def _capture(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """The decoder's own attention, which also notes what the vision tokens of one layer receive.

    Query ``(B, heads, S, d)`` and key ``(B, groups, S, d)`` come with positions and norms applied, whatever the family.
    """
    recorder = _recorder.get()
    assert recorder is not None
    if module.layer_idx == recorder.layer:
        # A choice has no gradient; and checkpointing computes the layer again with no one to record it.
        with torch.no_grad():
            recorder.received = received_attention(query, key, kwargs["scaling"], recorder.prompt, recorder.query)
    attend = ALL_ATTENTION_FUNCTIONS[recorder.implementation]
    return attend(module, query, key, value, attention_mask, **kwargs)


def received_attention(query: Tensor, key: Tensor, scaling: float, prompt: Tensor, which: str) -> Tensor:
    """Attention that every position receives, mean over heads.

    Args:
        query: ``(B, heads, S, d)``.
        key: ``(B, groups, S, d)``.
        scaling: factor of the scores.
        prompt: ``(B, S)`` bool; only these positions ask and are asked.
        which: `last`: by the last of them; `mean`: the mean over all of them.

    Returns:
        ``(B, S)`` float32.
    """
    places = torch.arange(prompt.shape[1], device=prompt.device)
    if which == "last":
        last = torch.where(prompt, places, places.new_zeros(())).amax(1)  # (B,)
        asking = query[torch.arange(len(query), device=query.device), :, last].unsqueeze(2)  # (B, heads, 1, d)
        allowed = prompt[:, None] & (places <= last[:, None])[:, None]  # (B, 1, S)
    else:
        asking = query
        allowed = prompt[:, None] & (places <= places[:, None])  # (B, S, S)
    weights = attention_rows(asking, key, scaling, allowed[:, None]).mean(1)  # (B, Q, S)
    if which == "last":
        return weights[:, 0]
    asks = prompt.float()
    return (weights * asks[..., None]).sum(1) / asks.sum(1, keepdim=True).clamp(min=1)
