"""Prefill at the true shape of llava_next_qwen2_0_5b and one tile, as a ratio to the uncompressed model.

    python scripts/one_tile.py [--rounds 5]

Weights are random, float32, and shared between the models, which take turns. Times are the process's own on one thread,
so that what else runs on the machine counts little. A ratio is the median over the rounds, beside it that of the
fastest times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vr_eval.catalog.recipe import Recipe
from vr_eval.config.cell import Cell
from vr_eval.measure.question import PROMPT_TOKENS
from vr_eval.measure.timing import Times, prefill_call, times
from vr_eval.models.build import build_lvlm, lvlm_config
from vr_eval.models.lvlm import LVLM
from vr_eval.models.tiles import BASE_ONLY

BACKBONE = "llava_next_qwen2_0_5b"
REFERENCE = ("mlp", 1, "none", "none", {})
MEASURED: tuple[tuple[str, int, str, str, dict[str, Any]], ...] = (
    REFERENCE,
    ("avg_pool", 4, "none", "none", {}),
    ("avg_pool", 4, "vision_remember", "none", {}),
    ("avg_pool", 4, "deepstack", "none", {}),
    ("avg_pool", 4, "sva", "none", {}),
    ("mlp", 1, "none", "fastv", {"fastv": {"keep_ratio": 0.25}}),
)
"""Projector, ratio, refusion, pruning and options."""


def models(rows: Sequence[tuple[str, int, str, str, dict[str, Any]]], device: str = "cpu") -> dict[str, LVLM]:
    """Inference versions around one tower and one decoder, by their cells' labels."""
    made: dict[str, LVLM] = {}
    first: LVLM | None = None
    for projector, ratio, refusion, pruning, options in rows:
        cell = Cell(BACKBONE, projector, ratio, refusion, pruning, 0, options, Recipe(), random_weights=True)
        if first is None:
            first, _ = build_lvlm(cell, device=device)
            model = first
        else:
            tower, decoder = first.vision_tower, first.language_model
            model = LVLM(lvlm_config(cell, tower, decoder, first.config.image_token_id), tower, decoder)
        made[cell.label] = model.to_inference().to(device)
    return made


def measure(rounds: int) -> Mapping[str, Times]:
    """Prefill times of all of `MEASURED`."""
    calls = {name: prefill_call(model, PROMPT_TOKENS, size=BASE_ONLY) for name, model in models(MEASURED).items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return times(calls, torch.device("cpu"), rounds, warm_up=1, clock=time.process_time)
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    measured = measure(parser.parse_args().rounds)
    reference = next(iter(measured.values()))
    print(f"{len(reference.rounds_ms)} rounds, float32, one tile, one thread's own time")
    for name, own in measured.items():
        fastest = min(own.rounds_ms) / min(reference.rounds_ms)
        print(f"{name:<44} {own.median_ms:9.1f} ms  ratio {own.ratio_to(reference):.2f}  of the fastest {fastest:.2f}")


if __name__ == "__main__":
    main()
