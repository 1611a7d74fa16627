"""Runs a refusion method between the layers of a Hugging Face decoder, without copying any of its code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vr_eval.methods.base import Refusion, RefusionInput


@dataclass
class Injection:
    """What the insertion points of one prefill are handed; a reduction between them puts another in its place."""

    given: RefusionInput


@contextmanager
def injected(layers: nn.ModuleList, refusion: Refusion | None, injection: Injection | None) -> Iterator[None]:
    """For the duration of one prefill, let `refusion` change the hidden states after its decoder layers.

    After layer -1 is before the first one. Hooks sit outside the layers' gradient checkpointing region: gradients are
    those without hooks. They are removed whatever happens inside.
    """
    handles = []
    try:
        if refusion is not None and injection is not None:
            for point, layer in enumerate(refusion.layers):
                if layer < 0:
                    handles.append(layers[0].register_forward_pre_hook(_before(refusion, point, injection)))
                else:
                    handles.append(layers[layer].register_forward_hook(_hook(refusion, point, injection)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(refusion: Refusion, point: int, injection: Injection) -> Any:
    def after_layer(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> Any:
        if isinstance(output, tuple):  # some decoders of transformers return (hidden states, ...)
            return refusion.inject(point, output[0], injection.given), *output[1:]
        return refusion.inject(point, output, injection.given)

    return after_layer


def _before(refusion: Refusion, point: int, injection: Injection) -> Any:
    def before_layer(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        return refusion.inject(point, inputs[0], injection.given), *inputs[1:]

    return before_layer
