"""Attention density: the share of attention that text tokens give to vision tokens, layer by layer.

The v1 paper's figure (arXiv 2506.03928v1) plots attention density per layer; the exact definition is ours: of the text
tokens behind the image, the mean over tokens and heads of the attention that goes to vision positions. The weights of
one layer at a time are computed, and of these the rows of text tokens alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from vr_eval.layers.attention import attention_rows
from vr_eval.models.lvlm import LVLM

_NAME = "vr_eval_density"


@dataclass
class Density:
    """Measures during one forward pass; use `watching` as the `inside` of `run_tapped`.

    Attributes:
        shares: Layer to ``(B,)`` shares, 0 to 1.
        even: Layer to the share that even attention to all earlier tokens would give, ``(B,)``.
    """

    model: LVLM
    shares: dict[int, Tensor] = field(default_factory=dict)
    even: dict[int, Tensor] = field(default_factory=dict)

    @contextmanager
    def watching(self, vision: Callable[[], Tensor]) -> Iterator[None]:
        """Until its end, every layer of the decoder is measured; its attention is the decoder's own."""
        config = self.model.decoder.config
        implementation = config._attn_implementation
        AttentionInterface.register(_NAME, _measured)
        AttentionMaskInterface.register(_NAME, AttentionMaskInterface()[implementation])
        token = _watch.set(_Watch(implementation, vision, self))
        config._attn_implementation = _NAME
        try:
            yield
        finally:
            config._attn_implementation = implementation
            _watch.reset(token)


@dataclass
class _Watch:
    implementation: str
    vision: Callable[[], Tensor]
    density: Density


_watch: ContextVar[_Watch | None] = ContextVar("watch", default=None)


def _measured(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Query ``(B, heads, S, d)`` and key ``(B, groups, S, d)`` come with positions and norms applied."""
    watch = _watch.get()
    assert watch is not None
    vision = watch.vision()
    mask = attention_mask if isinstance(attention_mask, Tensor) else None
    share, even = vision_share(query, key, kwargs["scaling"], vision, mask)
    layer = cast(int, module.layer_idx)
    watch.density.shares[layer] = share.cpu()
    watch.density.even[layer] = even.cpu()
    attend = ALL_ATTENTION_FUNCTIONS[watch.implementation]
    return attend(module, query, key, value, attention_mask, **kwargs)


def vision_share(
    query: Tensor, key: Tensor, scaling: float, vision: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention of the text tokens behind the image that goes to vision tokens.

    Args:
        query: ``(B, heads, S, d)``.
        key: ``(B, groups, S, d)``.
        scaling: factor of the scores.
        vision: ``(B, S)`` bool.
        mask: ``(B or 1, 1, S, S)``, True or 0 where a key may be looked at; None: causal, nothing padded.

    Returns:
        The shares ``(B,)``, and those of even attention.
    """
    places = torch.arange(vision.shape[1], device=vision.device)
    last = torch.where(vision, places, -1).amax(1)
    first_text = int(last.min()) + 1
    asking = places[first_text:]
    allowed = (places[None] <= asking[:, None]).expand(len(query), 1, -1, -1)  # (B, 1, Q, S)
    if mask is not None:
        given = mask[..., first_text:, : vision.shape[1]]
        allowed = allowed & (given if given.dtype == torch.bool else given == 0)
    rows = attention_rows(query[:, :, first_text:], key, scaling, allowed)
    asks = (asking > last[:, None]) & allowed[:, 0, :, :].diagonal(first_text, dim1=1, dim2=2)  # text, and not padding
    weights = torch.where(asks[:, None, :, None], rows, 0.0)
    count = asks.sum(1).clamp(min=1)
    seen = vision[:, None, None, :]
    share = torch.where(seen, weights, 0.0).sum((1, 2, 3)) / (count * query.shape[1])
    part = (allowed & seen).sum(3).float() / allowed.sum(3).clamp(min=1)  # (B, 1, Q)
    even = torch.where(asks[:, None], part, 0.0).sum((1, 2)) / count
    return share, even
