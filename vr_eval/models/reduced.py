"""Runs a reduction inside a Hugging Face decoder, without copying any of its code.

Layers from a place on get a shorter sequence: hidden states, positions and rotary embeddings of what stays, and a mask
of its own length. Their cache is shorter too; what was left is remembered on the cache itself, for its decode steps,
and goes with it. No attention has to return its weights: a method that ranks by a layer gets its queries and keys,
noted on their way through the attention interface, or made by the layer's own code for nothing else before it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from vr_eval.methods.reduction import Asked, Reduction, Sample
from vr_eval.models.seams import Injection

_ASK = "vr_eval_ask"
_NOTE = "vr_eval_note"
_LEFT = "_vr_eval_left"


@dataclass(frozen=True)
class Prompt:
    """The sequences of one prefill. All tensors are ``(B, S)``."""

    input_ids: Tensor
    prompt: Tensor
    """bool: no padding, nothing from the first supervised token on."""
    image: Tensor
    """int64: the number of the image whose token stands there; -1 for text."""
    seen: Tensor | None = None
    """bool: what may be looked at; None for all of it."""


@dataclass(frozen=True)
class Stage:
    """What layers from one place on hold after prefill."""

    place: int
    seen: Tensor
    """``(B, L)`` bool: which of their positions may be looked at."""
    shift: Tensor | None
    """``(B,)``: by so much less are later tokens numbered there; None where positions are the original ones."""


@dataclass
class Left:
    """What a prefill left."""

    stages: list[Stage] = field(default_factory=list)
    index: Tensor | None = None
    """``(B, L)`` where what reaches the last layer stood in the whole sequence; None where nothing was dropped."""


@dataclass(frozen=True)
class Now:
    """The sequence at one moment of a prefill. All tensors are ``(B, L)``."""

    image: Tensor
    """As in `Prompt`."""
    prompt: Tensor
    seen: Tensor
    index: Tensor
    """Where in the whole sequence it stood; of a merged token, its home."""

    def taken(self, places: Tensor) -> Now:
        """What stands at `places` ``(B, L)``."""
        return Now(**{one.name: take(getattr(self, one.name), places) for one in fields(self)})


Watcher = Callable[[int, Now], None]
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Tell `watcher` of every step of a prefill: the decoder layer in front of it, and what is left."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def reduced(
    decoder: PreTrainedModel,
    reduction: Reduction | None,
    given: Prompt | None,
    cache: Cache | None,
    injection: Injection | None = None,
) -> Iterator[Left]:
    """For the duration of one forward pass of `decoder`, let only what `reduction` leaves go on from its places.

    At prefill `given` holds what the method chooses from; at a decode step it is None, and what was left at prefill is
    read from `cache`. Where nothing was chosen (a prompt without images) nothing changes. `injection` is what a
    refusion method acts on, from each place on where what is left of it stands.
    """
    left = getattr(cache, _LEFT, None) if given is None else Left()
    if left is None or reduction is None:
        yield Left()
        return
    run: _Prefill | _Decode
    if given is None:
        run = _Decode(decoder, left.stages, cache)
    else:
        run = _Prefill(decoder, reduction, given, cache, left, injection)
    handles, usual = [], decoder.config._attn_implementation
    token = _noting.set(run if isinstance(run, _Prefill) else None)
    try:
        for number, layer in enumerate(decoder.layers):
            if number >= run.first:
                hook = partial(run.before, number)
                handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        yield left
        if given is not None and cache is not None:
            setattr(cache, _LEFT, left)
    finally:
        decoder.config._attn_implementation = usual
        _noting.reset(token)
        for handle in handles:
            handle.remove()


class _Run:
    """What changes at the entrance of a decoder's layers."""

    def __init__(self, decoder: PreTrainedModel, cache: Cache | None) -> None:
        self.decoder, self.cache = decoder, cache
        self.replaced: dict[str, Any] = {}

    def mask(self, hidden: Tensor, stage: Stage) -> Any:
        """The causal mask of the layers from `stage` on."""
        past = self.cache.get_seq_length(stage.place) if self.cache is not None else 0
        new = past + hidden.shape[1] - stage.seen.shape[1]
        seen = nn.functional.pad(stage.seen, (0, new), value=True)
        return create_causal_mask(
            self.decoder.config, hidden, seen, self.cache, position_ids=None, layer_idx=stage.place
        )

    def rotary(self, hidden: Tensor, positions: Tensor) -> dict[str, Any]:
        """Positions ``(B, L)`` as layers are told them."""
        return {"position_ids": positions, "position_embeddings": self.decoder.rotary_emb(hidden, positions)}


class _Decode(_Run):
    def __init__(self, decoder: PreTrainedModel, stages: list[Stage], cache: Cache | None) -> None:
        super().__init__(decoder, cache)
        self.stages = {stage.place: stage for stage in stages}
        self.first = min(self.stages)

    def before(self, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stage = self.stages.get(number)
        if stage is not None:
            self.replaced = {"attention_mask": self.mask(args[0], stage)}
            if stage.shift is not None:
                self.replaced |= self.rotary(args[0], kwargs["position_ids"] - stage.shift[:, None])
        return args, {**kwargs, **self.replaced}


class _Prefill(_Run):
    def __init__(
        self,
        decoder: PreTrainedModel,
        reduction: Reduction,
        given: Prompt,
        cache: Cache | None,
        left: Left,
        injection: Injection | None,
    ) -> None:
        super().__init__(decoder, cache)
        self.reduction, self.given, self.left = reduction, given, left
        self.injection = injection
        self.injected = None if injection is None else injection.given
        places = torch.arange(given.prompt.shape[1], device=given.prompt.device).expand_as(given.prompt)
        seen = torch.ones_like(given.prompt) if given.seen is None else given.seen.bool()
        self.now = Now(given.image, given.prompt, seen, places)
        self.counts = given.image[(given.image >= 0) & given.prompt].bincount()
        self.steps = {place: step for step, place in enumerate(reduction.places)}
        self.first = min(self.steps) - (reduction.asks == "previous")
        self.usual = decoder.config._attn_implementation
        self.asked: Answer | None = None

    def before(self, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden, *rest = args
        kwargs = {**kwargs, **self.replaced}
        if number in self.steps:
            if self.reduction.asks == "own":
                self.asked = ask(self.decoder, layer, hidden, kwargs)
            self.decoder.config._attn_implementation = self.usual
            hidden = self._step(number, hidden, kwargs)
            kwargs |= self.replaced
        if self.reduction.asks == "previous" and number + 1 in self.steps:
            if self.usual in ALL_ATTENTION_FUNCTIONS.valid_keys():
                self.decoder.config._attn_implementation = _NOTE
            else:  # eager attention is each decoder's own, and cannot be called from outside
                self.asked = ask(self.decoder, layer, hidden, kwargs)
        return (hidden, *rest), kwargs

    def _step(self, place: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        reduction, now = self.reduction, self.now
        positions = kwargs["position_ids"].expand(len(hidden), -1).clone()
        last = positions.amax(1)
        # An image behind an answer is not of the prompt, and stays.
        places = now.index.clone()
        stays, moved = (now.image < 0) | ~now.prompt, False
        for row in range(len(hidden)):
            columns = ((now.image[row] >= 0) & now.prompt[row]).nonzero().flatten()
            if not len(columns):
                continue
            rows = reduction.choose(self.steps[place], self._sample(row, hidden))
            order = now.image[row, columns[rows.home]].argsort(stable=True)
            homes = columns[rows.home][order]
            slots = homes.sort().values
            stays[row, slots] = True
            if not (rows.selects and torch.equal(homes, slots)):
                made = rows.apply(hidden[row, columns])[order]
                hidden = hidden.index_put((torch.full_like(slots, row), slots), made)
                positions[row, slots] = positions[row, homes]
                places[row, slots] = places[row, homes]
                moved = True
        self.asked = None
        if reduction.mode == "mask":
            self.now = Now(torch.where(stays, now.image, -1), now.prompt, now.seen & stays, now.index)
            stage = Stage(place, self.now.seen, None)
            self.replaced = {**self.replaced, "attention_mask": self.mask(hidden, stage)}
        else:
            # What stays in order, right-aligned: rows that keep fewer are filled with dropped ones, not seen.
            longest = int(stays.sum(1).max())
            index = stays.int().argsort(dim=1, stable=True)[:, -longest:]
            fill = ~take(stays, index)
            self.now = replace(now, index=places).taken(index)
            self.now = Now(
                self.now.image.masked_fill(fill, -1),
                self.now.prompt & ~fill,
                self.now.seen & ~fill,
                self.now.index,
            )
            hidden, positions = take(hidden, index), take(positions, index)
            self.left.index = self.now.index
            shift = None
            if reduction.positions == "renumbered":
                positions = renumbered(positions, self.now.seen)
                shift = last - positions.amax(1) + (self._shift() if self.left.stages else 0)
            stage = Stage(place, self.now.seen, shift)
            self.replaced = {"attention_mask": self.mask(hidden, stage)}
            if moved or shift is not None:
                self.replaced |= self.rotary(hidden, positions)
            else:
                taken = tuple(take(part, index) for part in kwargs["position_embeddings"])
                self.replaced |= {"position_ids": positions, "position_embeddings": taken}
        self.left.stages.append(stage)
        self._tell(place)
        return hidden

    def _tell(self, place: int) -> None:
        """Tell who else acts on vision tokens where they stand now."""
        now, first = self.now, self.injected
        if self.injection is not None and first is not None:
            layout = first.layout.left(now.index, now.image >= 0, self.given.prompt.shape[1])
            instruction = take(first.instruction, now.index) & now.prompt
            self.injection.given = replace(first, layout=layout, instruction=instruction)
        watcher = _watcher.get()
        if watcher is not None:
            watcher(place, now)

    def _shift(self) -> Tensor:
        """By how much earlier steps have shifted what follows."""
        shift = self.left.stages[-1].shift
        assert shift is not None
        return shift

    def _sample(self, row: int, hidden: Tensor) -> Sample:
        now, given = self.now, self.given
        prompt = now.prompt[row].nonzero().flatten()
        asked = None
        if self.asked is not None:
            query, key, scaling = self.asked
            asked = Asked(query[row, :, prompt], key[row, :, prompt], scaling)
        image = now.image[row, prompt]
        of = image[image >= 0]
        # A choice has no gradient.
        seen = hidden[row, prompt].detach()
        ids = given.input_ids[row, given.prompt[row]]
        return Sample(seen, image >= 0, of, self.counts[of], ids, asked)


def renumbered(positions: Tensor, seen: Tensor) -> Tensor:
    """Position ids ``(B, L)`` without gaps among what is `seen`, each row from its own first on; others: that first."""
    first = positions.masked_fill(~seen, torch.iinfo(positions.dtype).max).amin(1, keepdim=True)
    return first + (seen.cumsum(1) - 1).clamp(min=0)


def take(tensor: Tensor, index: Tensor) -> Tensor:
    """Places ``(B, L, ...)`` of `tensor` ``(B or 1, S, ...)`` at `index` ``(B, L)``."""
    rows = tensor.expand(len(index), *tensor.shape[1:])
    return rows[torch.arange(len(index), device=index.device)[:, None], index]


Answer = tuple[Tensor, Tensor, float]
"""Queries ``(B, heads, L, d)`` and keys ``(B, groups, L, d)`` of a layer, and the factor of their scores."""
_noting: ContextVar[_Prefill | None] = ContextVar("noting", default=None)


def _note(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    """The decoder's usual attention, of which a prefill notes what went in."""
    run = _noting.get()
    assert run is not None
    run.asked = (query.detach(), key.detach(), kwargs["scaling"])
    return ALL_ATTENTION_FUNCTIONS[run.usual](module, query, key, value, mask, **kwargs)


class _Answered(Exception):
    """Ends a layer's code at its attention."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


def _answer(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
    raise _Answered((query, key, kwargs["scaling"]))


AttentionInterface.register(_NOTE, _note)
AttentionInterface.register(_ASK, _answer)


@torch.no_grad()
def ask(decoder: PreTrainedModel, layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> Answer:
    """What `layer` would attend with, given `hidden` ``(B, L, H)``; nothing of it is cached.

    Raises:
        ValueError: the layer does not go through the attention interface of transformers.
    """
    usual = decoder.config._attn_implementation
    decoder.config._attn_implementation = _ASK
    try:
        layer.forward(hidden, **{**kwargs, "past_key_values": None})
    except _Answered as answered:
        return answered.answer
    finally:
        decoder.config._attn_implementation = usual
    raise ValueError(f"{type(layer).__name__} does not go through the attention interface of transformers")
