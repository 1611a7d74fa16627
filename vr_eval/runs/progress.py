"""What a run says while it works: on stderr, a bar where someone watches, and one line for every finished cell."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from vr_eval.errors import sanitize_terminal
from vr_eval.processes import is_first_process
from vr_eval.runs.plan import duration


class Progress:
    """Counts the cells of one command and estimates the time that is left from those it has seen."""

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.done = 0
        self._started = time.monotonic()

    @staticmethod
    def say(text: str) -> None:
        """One line, above a bar if there is one; the first of several processes speaks for all."""
        if is_first_process():
            tqdm.write(sanitize_terminal(text), file=sys.stderr)

    @contextmanager
    def cell(self, label: str, questions: int) -> Iterator[Any]:
        """A bar over the questions of one cell (none where stderr is no terminal); yields how it is moved on."""
        name = f"[{self.done + 1}/{self.cells}] {label}"
        with tqdm(total=questions, desc=name, unit="q", file=sys.stderr, leave=False, disable=None) as bar:
            yield bar.update

    def finished(self, text: str) -> None:
        """Say how a cell ended, and about how long the rest will take."""
        self.done += 1
        left = self.cells - self.done
        elapsed = time.monotonic() - self._started
        rest = f", about {duration(elapsed / self.done * left)} left" if left else ""
        self.say(f"[{self.done}/{self.cells}] {text} ({duration(elapsed)}{rest})")
