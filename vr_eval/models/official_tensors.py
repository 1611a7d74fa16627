"""Official checkpoints: which tensors they hold, of which shapes, and what those are called here.

Shapes are words for dimensions (`H` the decoder's width, `3*D`, `H+C`), so that one table serves every size: the sizes
are read from the tensors themselves, and a tensor that disagrees with the others is the misshapen one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from math import prod

Shapes = Mapping[str, tuple[int, ...]]

_DECODER = (("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head."), "language_model.")
_TOWER = ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower.vision_tower.")
NEWLINE = "image_newline"
"""Official models end every row of tokens with a learned token. Ours do so for images in tiles alone."""

_MOVED: dict[str, tuple[tuple[str, str], ...]] = {
    "tokenpacker": (("model.mm_projector.", "projector."),),
    "deepstack": (("model.mm_projector.", "projector.mlp."),),
    "cambrian": (
        ("model.mm_projector_aux_", "projector.towers.mm_projector_aux_"),
        ("model.mm_projector.", "projector.mm_projector."),
        ("model.vision_sampler_0.", "projector.vision_sampler_0."),
        ("model.vision_query", "projector.vision_query"),
        ("model.vision_sampler_layers.", "refusion.vision_sampler_layers."),
    ),
}
SOURCES = tuple(_MOVED)
"""Names that `vr-eval import` takes."""

_MOST = 1000
"""Layers that anybody would number; a larger number in a name is no layer."""


def our_name(source: str, official: str) -> str | None:
    """What `official`, a name in a checkpoint of `source`, is called in an `LVLM`; None for a name of neither."""
    for prefix, ours in _MOVED[source]:
        if official.startswith(prefix):
            return ours + official.removeprefix(prefix)
    for prefix in _TOWER:
        if official.startswith(prefix):
            return "vision_tower." + official.removeprefix(prefix)
    if official == f"model.{NEWLINE}":
        return NEWLINE
    parts, ours = _DECODER
    return ours + official if official.startswith(parts) else None


def decoder_renamings() -> dict[str, str]:
    """Patterns of the names of a plain LLaVA checkpoint and what those are called in an `LVLM`."""
    moved = dict.fromkeys(_TOWER, "vision_tower.") | dict(_MOVED["deepstack"])
    parts, ours = _DECODER
    moved["model.mm_projector."] = "projector.mlp."
    moved |= {part: ours + part for part in parts}
    return {"^" + re.escape(prefix): name for prefix, name in moved.items()}


def computed_anew(official: str) -> bool:
    """Buffers of old checkpoints that today's classes compute themselves."""
    return official.endswith(("rotary_emb.inv_freq", "embeddings.position_ids"))


def expected_shapes(source: str, names: Iterable[str], config: Mapping[str, object]) -> dict[str, str]:
    """Every tensor that a checkpoint of `source` with tensors like `names` must have, with its shape in words.

    How many layers there are is read from `config` (the official config.json, may be empty), else from the names. The
    decoder is asked for only if some of it is there (a file of the projector alone is complete); the tower never is.
    """
    names = list(names)
    expected = dict(_TABLES[source](names, config))
    if any(name.startswith(_DECODER[0]) for name in names):
        expected |= _decoder(_count(names, r"model\.layers\.(\d+)\.", config, "num_hidden_layers"))
    if f"model.{NEWLINE}" in names:
        expected[f"model.{NEWLINE}"] = "H"
    return expected


def solve_sizes(expected: Mapping[str, str], shapes: Shapes) -> dict[str, int]:
    """The size that each word stands for: what most tensors say."""
    sizes: dict[str, int] = {}
    for several in (False, True):  # products last: one of their factors is known by then
        votes: dict[str, Counter[int]] = {}
        for name, words in expected.items():
            dimensions = words.split()
            if len(shapes.get(name, ())) != len(dimensions):
                continue
            for word, size in zip(dimensions, shapes[name], strict=True):
                factors = word.split("*")
                unknown = [factor for factor in factors if not factor.isdigit() and factor not in sizes]
                if "+" in word or len(unknown) != 1 or (len(factors) > 1) != several:
                    continue
                known = prod(int(f) if f.isdigit() else sizes[f] for f in factors if f != unknown[0])
                if known and size % known == 0:
                    votes.setdefault(unknown[0], Counter())[size // known] += 1
        sizes |= {word: counted.most_common(1)[0][0] for word, counted in votes.items()}
    return sizes


def in_numbers(words: str, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """A shape in words as numbers; None where a size is unknown because every tensor that has it is missing."""
    try:
        return tuple(
            sum(prod(int(f) if f.isdigit() else sizes[f] for f in term.split("*")) for term in word.split("+"))
            for word in words.split()
        )
    except KeyError:
        return None


def _count(names: list[str], pattern: str, config: Mapping[str, object], key: str) -> int:
    told = config.get(key)
    if isinstance(told, int) and 0 <= told <= _MOST:
        return told
    numbers = (int(found[1]) for found in (re.match(pattern, name) for name in names) if found)
    return max((number + 1 for number in numbers if number < _MOST), default=0)


def _both(name: str, shape: str) -> dict[str, str]:
    """Weight and bias of a norm."""
    return {f"{name}.weight": shape, f"{name}.bias": shape}


def _linear(name: str, width_in: str, width_out: str) -> dict[str, str]:
    return {f"{name}.weight": f"{width_out} {width_in}", f"{name}.bias": width_out}


def _tokenpacker(names: list[str], config: Mapping[str, object]) -> dict[str, str]:
    p = "model.mm_projector."
    table = {f"{p}q_proj_1.weight": "D D"}
    for part in "kv":
        table |= _linear(f"{p}{part}_proj_1.0", "L*D", "D") | _linear(f"{p}{part}_proj_1.2", "D", "D")
    for part in "qkv":
        table |= _both(f"{p}ln_{part}_1", "D")
    table |= {f"{p}clip_attn.in_proj_weight": "3*D D", f"{p}clip_attn.in_proj_bias": "3*D"}
    table |= _linear(f"{p}clip_attn.out_proj", "D", "D")
    return table | _linear(f"{p}mlp.0", "D", "H") | _linear(f"{p}mlp.2", "H", "H")


def _deepstack(names: list[str], config: Mapping[str, object]) -> dict[str, str]:
    return _linear("model.mm_projector.0", "D", "H") | _linear("model.mm_projector.2", "H", "H")


def _cambrian(names: list[str], config: Mapping[str, object]) -> dict[str, str]:
    towers = max(1, _count(names, r"model\.mm_projector_aux_(\d+)\.", {}, ""))
    depth = max(1, _count(names, r"model\.vision_sampler_0\.layers\.(\d+)\.", config, "connector_depth"))
    only = {"num_of_vision_sampler_layers": 0} if config.get("connector_only") is True else config
    points = _count(names, r"model\.vision_sampler_layers\.(\d+)\.", only, "num_of_vision_sampler_layers")
    table = {"model.vision_query": "1 C"}
    for i in range(towers):
        aux = f"model.mm_projector_aux_{i}"
        table |= _linear(f"{aux}.0", f"D{i}", "C") | _linear(f"{aux}.2", "C", "C") | _both(f"{aux}.3", "C")
    table |= _linear("model.mm_projector.0", "C", "H") | _linear("model.mm_projector.2", "H", "H")
    connector = [f"model.vision_sampler_0.layers.{i}" for i in range(depth)]
    inside = [f"model.vision_sampler_layers.{i}.layers.0" for i in range(points)]
    for layers, width, window in ((connector, "C", "P"), (inside, "H", "W")):
        # A window of one cell has no embeddings; if any layer has them, all of its kind do.
        placed = [i for i in range(towers) if any(f"{layer}.pos_embed_{i}" in names for layer in layers)]
        for layer in layers:
            table |= _sampler_layer(layer, width, towers) | {f"{layer}.pos_embed_{i}": f"{window}{i} C" for i in placed}
    return table


def _sampler_layer(layer: str, width: str, towers: int) -> dict[str, str]:
    table = {
        f"{layer}.proj_context.weight": "C C",
        f"{layer}.proj_in.weight": f"C {width}+C",
        f"{layer}.proj_out.linear_1.weight": "C C",
        f"{layer}.proj_out.linear_2.weight": f"{width} C",
        **_both(f"{layer}.norm", "C"),
        f"{layer}.cross_attn.o_proj.weight": "C C",
    }
    for part in ("q_proj", *(f"{kind}_proj_{i}" for i in range(towers) for kind in "kv")):
        table |= {**_both(f"{layer}.cross_attn.{part}.0", "C"), f"{layer}.cross_attn.{part}.1.weight": "C C"}
    return table


def _decoder(depth: int) -> dict[str, str]:
    table = {"model.embed_tokens.weight": "V H", "model.norm.weight": "H", "lm_head.weight": "V H"}
    for i in range(depth):
        layer = f"model.layers.{i}"
        table |= {
            f"{layer}.self_attn.q_proj.weight": "A H",
            f"{layer}.self_attn.k_proj.weight": "G H",
            f"{layer}.self_attn.v_proj.weight": "G H",
            f"{layer}.self_attn.o_proj.weight": "H A",
            f"{layer}.mlp.gate_proj.weight": "F H",
            f"{layer}.mlp.up_proj.weight": "F H",
            f"{layer}.mlp.down_proj.weight": "H F",
            f"{layer}.input_layernorm.weight": "H",
            f"{layer}.post_attention_layernorm.weight": "H",
        }
    return table


_TABLES: dict[str, Callable[[list[str], Mapping[str, object]], dict[str, str]]] = {
    "tokenpacker": _tokenpacker,
    "deepstack": _deepstack,
    "cambrian": _cambrian,
}
