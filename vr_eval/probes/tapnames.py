"""Names of taps, the places where features are read. Light: files are checked against them without torch.

    tower.0 .. tower.L     hidden states of the vision tower, embeddings first
    tower.out              what the projector reads: its hidden states side by side
    projector              vision tokens as the decoder gets them
    decoder.i              output of decoder layer i, before whatever follows it
    decoder.i+refusion     the same after the refusion that follows layer i (projector+refusion: before layer 0)
    decoder.i+pruning      the same after tokens were dropped; only what is left

So the tap before a refusion or pruning point is the one in front of it in this order.
"""

from __future__ import annotations

from collections.abc import Iterable

OUT = "tower.out"
PROJECTOR = "projector"
REFUSION, PRUNING = "+refusion", "+pruning"
COMPONENTS = ("tower", "projector", "decoder")


def tower_tap(level: int) -> str:
    """Hidden state `level` of the tower."""
    return f"tower.{level}"


def decoder_tap(layer: int) -> str:
    """After decoder layer `layer`; -1 is in front of the first one."""
    return PROJECTOR if layer < 0 else f"decoder.{layer}"


def component(tap: str) -> str:
    """`tower`, `projector` or `decoder`; what happens in front of the first decoder layer is the decoder's."""
    return "decoder" if "+" in tap else tap.partition(".")[0]


def every_tap(tower_depth: int, decoder_depth: int) -> tuple[str, ...]:
    """All names that a backbone of so many layers can have, in the order of a forward pass."""
    stream = (decoder_tap(layer) for layer in range(-1, decoder_depth))
    places = (f"{name}{suffix}" for name in stream for suffix in ("", REFUSION, PRUNING))
    return (*(tower_tap(level) for level in range(tower_depth + 1)), OUT, *places)


def place(tap: str, tower_depth: int) -> float:
    """Where a tap stands along the depth: hidden states, projector and decoder layers are one unit apart."""
    if tap == OUT:
        return tower_depth + 0.5
    name, plus, kind = tap.partition("+")
    start = float(name.partition(".")[2]) if name != PROJECTOR else -1.0
    if name.startswith("tower"):
        return start
    return tower_depth + 2.5 + start + {"": 0.0, "refusion": 0.33, "pruning": 0.66}[kind if plus else ""]


def selected(patterns: Iterable[str], taps: Iterable[str]) -> tuple[str, ...]:
    """The taps that `patterns` ask for: a tap's own name, or a component for all of its taps."""
    wanted = set(patterns)
    return tuple(tap for tap in taps if tap in wanted or component(tap) in wanted)
