"""Reads the vision tokens of a model at every tap in one forward pass.

The pass is the model's own. Hidden states of the tower come from `LVLM.encode_images`, which computes them all anyway
(cells that share a tower share them); the rest from hooks of torch that last one call. Two sets of them are needed:
those registered before the call run before the hooks of refusion and pruning and see a layer's own output; those
registered when the language model is entered run after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vr_eval.methods.levels import Level, in_order
from vr_eval.models.lvlm import LVLM
from vr_eval.models.reduced import Now, take, watched
from vr_eval.models.tiles import BASE_ONLY
from vr_eval.probes.tapnames import OUT, PROJECTOR, PRUNING, REFUSION, decoder_tap, tower_tap

Note = Callable[[str, Tensor, Tensor | None], None]
"""Told of every tap once: name, vision tokens ``(B, N, width)``, and which of an image's tokens they are ``(B, N)``
(None: all of them, in order; -1: none, as its row has fewer)."""

Inside = Callable[[Callable[[], Tensor]], AbstractContextManager[None]]
"""Given a function that says which positions ``(B, S or fewer)`` hold vision tokens at this moment: a context."""


def taps_of(model: LVLM) -> tuple[str, ...]:
    """The taps that `model` has, in the order of a forward pass."""
    depth = model.config.shapes.tower_depth
    names = [tower_tap(level) for level in range(depth + 1)] + [OUT]
    refused = model.refusion.layers if model.refusion is not None else ()
    for layer in range(-1, len(model.decoder.layers)):
        names.append(decoder_tap(layer))
        if layer in refused:
            names.append(decoder_tap(layer) + REFUSION)
        if model.pruning is not None and layer + 1 in model.pruning.places:
            names.append(decoder_tap(layer) + PRUNING)
    return tuple(names)


def tower_levels_of(model: LVLM) -> tuple[Level, ...]:
    """What stands for the tower's hidden states 0 .. L in `model`: others where a method acts in the tower."""
    plain = range(model.config.shapes.tower_depth + 1)
    return tuple(plain) if model.refusion is None else tuple(model.refusion.tower_level(level) for level in plain)


def levels_read(model: LVLM) -> tuple[Level, ...]:
    """The hidden states of the tower that taps and methods of `model` read."""
    return in_order({*tower_levels_of(model), *model.feature_levels})


@torch.no_grad()
def encode(model: LVLM, pixel_values: Tensor, levels: Sequence[Level]) -> dict[Level, Tensor]:
    """Hidden states ``(B, G*G, D)`` by level; models with one tower and one image seam share them."""
    return dict(zip(levels, model.encode_images(pixel_values, tuple(levels)).unbind(2), strict=True))


@torch.no_grad()
def run_tapped(
    model: LVLM,
    input_ids: Tensor,
    encoded: Mapping[Level, Tensor],
    note: Note,
    attention_mask: Tensor | None = None,
    inside: Inside | None = None,
) -> None:
    """Everything behind the tower in one forward pass; `note` is told of the vision tokens at every tap.

    Args:
        model: In eval mode.
        input_ids: ``(B, S)``; every row holds the tokens of one image, of its base view alone where the model cuts
            images into tiles.
        encoded: What `encode` gave for the images, at least the levels of `levels_read`.
        attention_mask: ``(B, S)``, 0 at padding.
        inside: Surrounds the forward pass.

    Raises:
        ValueError: a row without exactly one image.
    """
    vision = input_ids == model.config.image_token_id
    sizes = [BASE_ONLY] * len(input_ids)
    (expected,) = model.image_tokens(sizes[:1])
    if not bool((vision.sum(1) == expected).all()):
        raise ValueError(f"every row must hold one image of {expected} image tokens")
    vision &= vision.cumsum(1) <= model.tokens_per_image  # a newline may stand behind them
    note_tower(model, encoded, note)
    stream = _Stream(model, vision, note)
    with ExitStack() as stack:
        stack.enter_context(stream.reading())
        if inside is not None:
            stack.enter_context(inside(lambda: stream.vision))
        model(
            input_ids,
            attention_mask=attention_mask,
            vision_features=torch.stack([encoded[level] for level in model.feature_levels], dim=2),
            image_sizes=torch.tensor(sizes) if model.scheme is not None else None,
            use_cache=False,
            logits_to_keep=1,
        )


def note_tower(model: LVLM, encoded: Mapping[Level, Tensor], note: Note) -> None:
    """Tells `note` of the taps in front of the projector, which need no forward pass."""
    states = tower_levels_of(model)
    for level, state in enumerate(states):
        note(tower_tap(level), encoded[state], None)
    note(OUT, torch.cat([encoded[states[level]] for level in model.projector.levels], dim=-1), None)


class _Stream:
    """The vision positions of the decoder's hidden states, followed through its layers."""

    def __init__(self, model: LVLM, vision: Tensor, note: Note) -> None:
        self.model, self.note = model, note
        self.number = vision.cumsum(1) - 1  # which token of its image stands there
        self.first = vision, self.number
        self.whole = True
        self.go_on(vision)

    def go_on(self, vision: Tensor) -> None:
        """From here on the vision tokens stand where `vision` ``(B, S)`` says."""
        self.vision = vision
        self.places = vision.nonzero(as_tuple=True)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hooks for one forward pass; removed whatever happens inside."""
        handles: list[Any] = []
        layers = list(self.model.decoder.layers)

        def entered(module: nn.Module, args: object) -> None:
            handles.extend(self._after_methods(layers))

        try:
            handles.append(self.model.projector.register_forward_hook(self._projected))
            handles.append(self.model.language_model.register_forward_pre_hook(entered))
            for number, layer in enumerate(layers):
                handles.append(layer.register_forward_hook(self._output(decoder_tap(number))))
            with watched(self._reduced):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _after_methods(self, layers: Sequence[nn.Module]) -> Iterator[Any]:
        refusion, pruning = self.model.refusion, self.model.pruning
        for layer in refusion.layers if refusion is not None else ():
            name = decoder_tap(layer) + REFUSION
            if layer < 0:
                yield layers[0].register_forward_pre_hook(self._input(name))
            else:
                yield layers[layer].register_forward_hook(self._output(name))
        for place in pruning.places if pruning is not None else ():
            yield layers[place].register_forward_pre_hook(self._input(decoder_tap(place - 1) + PRUNING))

    def _projected(self, module: nn.Module, args: object, output: Tensor) -> None:
        self.note(PROJECTOR, output, None)

    def _output(self, name: str) -> Callable[..., None]:
        def after(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
            self._tell(name, output[0] if isinstance(output, tuple) else output)

        return after

    def _input(self, name: str) -> Callable[..., None]:
        return lambda module, args: self._tell(name, args[0])

    def _reduced(self, place: int, now: Now) -> None:
        vision, number = (take(first, now.index) for first in self.first)
        self.whole, self.number = False, number
        # Rows that keep fewer are filled with dropped tokens, which are of no image any more.
        self.go_on(vision & (now.image >= 0))

    def _tell(self, name: str, hidden: Tensor) -> None:
        """The vision tokens ``(B, N, H)`` of hidden states ``(B, S, H)``.

        Rows have as many, but where pruning kept the mark at the end of one image and not that of another.
        """
        counts = self.vision.sum(1).tolist()
        tokens, number = hidden[self.places].split(counts), self.number[self.places].split(counts)
        kept = None if self.whole else pad_sequence(number, batch_first=True, padding_value=-1)
        self.note(name, pad_sequence(tokens, batch_first=True), kept)


class Pooled:
    """A `Note` that keeps one feature vector per image, tap and pool, and nothing else of the tokens."""

    def __init__(self, places: Iterable[tuple[str, str]]) -> None:
        """`places`: taps and names of `POOLS`."""
        self.places = frozenset(places)
        self.found: dict[tuple[str, str], Tensor] = {}

    def __call__(self, tap: str, tokens: Tensor, kept: Tensor | None) -> None:
        rows = [tokens]
        if kept is not None and bool((kept < 0).any()):
            rows = [row[None, own] for row, own in zip(tokens, kept >= 0, strict=True)]
        for name, pool in POOLS.items():
            if (tap, name) in self.places:
                self.found[tap, name] = torch.cat([pool(row) for row in rows])


def mean_pool(tokens: Tensor) -> Tensor:
    """The mean token ``(B, width)`` of ``(B, N, width)``, float32."""
    return tokens.mean(1, dtype=torch.float32)


def max_pool(tokens: Tensor) -> Tensor:
    """The largest value of every channel ``(B, width)`` of ``(B, N, width)``, float32."""
    return tokens.amax(1).float()


def attention_pool(tokens: Tensor) -> Tensor:
    """Attention of the mean token to all tokens ``(B, N, width)``, one head without weights: ``(B, width)``, float32.

    Ours: a query that is learned would need every token of every image once more for each of its steps; the mean is
    known after one pass, and shows tokens like the rest of their image more than others.
    """
    query = mean_pool(tokens)[:, None]
    return nn.functional.scaled_dot_product_attention(query, tokens.float(), tokens.float())[:, 0]


POOLS: dict[str, Callable[[Tensor], Tensor]] = {"mean": mean_pool, "max": max_pool, "attention": attention_pool}
"""How the vision tokens of an image become one feature vector, by its name in probe files."""
