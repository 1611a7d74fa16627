"""Everything that can be checked of a GPU without weights or network, in at most 8 minutes on one H100 or H200.

    python scripts/gpu_check.py [--out reports/gpu] [--tiny]

Every method on the shapes of llava_next_qwen2_7b in bfloat16 with sdpa and images in tiles: batch 1 against 4, cache
against none, prefill, decode and memory, running out of memory, `vr-eval bench`, a training step with activation
checkpointing, probes at all taps. Checks run each by itself; what the time does not suffice for is left out and named.
Writes one JSON and one Markdown file, named after the device. Exit code 1 if a check failed.

`--tiny` does the same at small width in float32, on a CPU too.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = "llava_next_qwen2_7b"
BUDGET_S = 470.0
"""Of the 8 minutes, what is left after starting and writing."""


def main() -> int:
    """Run all checks; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "gpu", help="folder of the results")
    parser.add_argument("--tiny", action="store_true", help="small width in float32, for a CPU")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for all checks")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch

    from scripts.gpu import checks, tiny
    from scripts.gpu.bed import Bed, cells_of
    from scripts.gpu.ledger import Ledger
    from vr_eval.catalog.backbone import Loading
    from vr_eval.environment import describe, new_run_id
    from vr_eval.models.hub import quiet_loading

    if not options.tiny and not torch.cuda.is_available():
        print("there is no GPU here; --tiny checks small shapes on a CPU", file=sys.stderr)
        return 2
    quiet_loading()
    if options.tiny:
        tiny.register(BACKBONE)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    loading = Loading(dtype="float32" if options.tiny else "bfloat16", attention="sdpa")
    environment = describe(new_run_id())
    machine = str(environment.gpu if device.type == "cuda" else environment.cpu)
    about = {
        "backbone": f"{BACKBONE}, tiny" if options.tiny else BACKBONE,
        "machine": machine,
        "dtype": loading.dtype,
        "attention": loading.attention,
        "random_weights": True,
        "budget_s": options.budget,
        "environment": asdict(environment),
    }
    ledger = Ledger(about, options.budget, first_s=1.0 if options.tiny else 30.0)
    stem = re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-") + ("-tiny" if options.tiny else "")
    bed = Bed.of(BACKBONE, device, loading)
    cells, repeats = cells_of(BACKBONE), 2 if options.tiny else 7
    try:
        for cell in cells:
            ledger.run("batches", partial(checks.batches, bed, cell), cell.label)
            ledger.run("cache", partial(checks.cache, bed, cell), cell.label)
            ledger.run("costs", partial(checks.costs, bed, cell, repeats), cell.label)
        ledger.run("flash attention", partial(checks.flash, bed))
        ledger.run("out of memory", partial(checks.out_of_memory, bed))
        for cell in cells:
            if "avg_pool" in cell.label or cell.pruning == "fastv":
                ledger.run("probes", partial(checks.probes, bed, cell), cell.label)
        ledger.run("bench", partial(checks.bench, bed, 3))
        ledger.run("training", partial(checks.training, bed))  # last: it changes the shared weights
    finally:
        ledger.write(options.out, stem)
    print(options.out / f"{stem}.md")
    return 1 if ledger.failed else 0


if __name__ == "__main__":
    sys.exit(main())
