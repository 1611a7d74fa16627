"""A line for each worker and one for the whole, where someone watches: read from the leases, whoever does the work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from vr_eval.errors import sanitize_terminal
from vr_eval.records.folder import RUN_LEASE, RunFolder
from vr_eval.runs.lease import Holder, holders
from vr_eval.runs.progress import Progress

LINES = 16
"""So many workers have a line of their own; of more, the first ones."""
EVERY = 1.0
"""Seconds between two looks at the leases."""


@contextmanager
def watching(run: RunFolder, progress: Progress) -> Iterator[Callable[[], None]]:
    """Bars on stderr while the block runs, moved by what it yields; none where stderr is no terminal.

    There, every cell that ends is a line already.
    """
    whole = _bar("cells", progress.cells, "cell")
    bars: dict[str, Any] = {}
    looked = 0.0

    def look() -> None:
        nonlocal looked
        if whole.disable or time.monotonic() - looked < EVERY:
            return
        looked = time.monotonic()
        found = {name: holder for name, holder in holders(run.leases).items() if name != RUN_LEASE}
        for name in set(bars) - set(found):
            bars.pop(name).close()
        for name, holder in list(found.items())[:LINES]:
            if name not in bars:
                bars[name] = _worker_bar(holder)
            bar = bars[name]
            bar.total, bar.n = holder.total or None, holder.done
            bar.refresh()
        whole.n = progress.done
        whole.refresh()

    try:
        yield look
    finally:
        for bar in (*bars.values(), whole):
            bar.close()


def _worker_bar(holder: Holder) -> Any:
    return _bar(sanitize_terminal(f"  {holder.task} on {holder.host}"), holder.total, holder.unit or "q")


def _bar(words: str, total: int, unit: str) -> Any:
    return tqdm(desc=words, total=total or None, unit=f" {unit}", file=sys.stderr, leave=False, disable=None)
