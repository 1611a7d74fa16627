"""Runs checks one after the other, each by itself, within a budget of time, and writes what came out."""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vr_eval.errors import sanitize_terminal
from vr_eval.files import write_atomic

Check = Callable[[], Mapping[str, Any]]
GIB = 1024**3
COLUMNS = (
    ("batch 1 / 4", "batches", "relative_difference", "{:.2g}"),
    ("cache / none", "cache", "relative_difference", "{:.2g}"),
    ("tokens", "costs", "vision_tokens", "{:,}"),
    ("GFLOPs", "costs", "prefill_gflops", "{:,.0f}"),
    ("prefill ms", "costs", "prefill_ms", "{:.1f}"),
    ("inference / training", "costs", "inference_to_training", "{:.2f}"),
    ("decode ms", "costs", "decode_ms_per_token", "{:.2f}"),
    ("KV cache MiB", "costs", "kv_cache_bytes", None),
    ("peak GiB", "costs", "peak_bytes", None),
)
"""Title, check, value and format of each column of the table of methods."""


@dataclass
class Ledger:
    """Results of all checks.

    Attributes:
        about: What they were made with.
        budget_s: Time for all of them; a check that would not end in it is left out.
        first_s: Taken for the time of a kind of check that has not run yet.
    """

    about: dict[str, Any]
    budget_s: float
    first_s: float
    started: float = field(default_factory=time.monotonic)
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(result["outcome"] == "failed" for result in self.results)

    def run(self, name: str, check: Check, method: str = "") -> None:
        """Run one check, unless time is nearly over; whatever it raises is its own result."""
        result: dict[str, Any] = {"check": name, "method": method}
        self.results.append(result)
        times = [other["seconds"] for other in self.results if other["check"] == name and "seconds" in other]
        if time.monotonic() - self.started + max(times, default=self.first_s) > self.budget_s:
            result["outcome"] = "left out"
            print(f"left out: {name} {method}", flush=True)
            return
        before = time.monotonic()
        try:
            values = dict(check())
            result |= {"outcome": "skipped" if "skipped" in values else "passed", "values": values}
        except Exception as error:  # one check must not stop the others
            first = (str(error).splitlines() or [""])[0]
            result |= {"outcome": "failed", "reason": f"{type(error).__name__}: {first}"}
            result["traceback"] = traceback.format_exc()
        result["seconds"] = round(time.monotonic() - before, 2)
        reason = sanitize_terminal(str(result.get("reason", "")))
        print(f"{result['outcome']}: {name} {method} ({result['seconds']} s) {reason}".rstrip(), flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def write(self, folder: Path, stem: str) -> None:
        """`STEM.json` and `STEM.md` into `folder`."""
        self.about["seconds"] = round(time.monotonic() - self.started, 1)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{stem}.json", json.dumps({**self.about, "results": self.results}, indent=1) + "\n")
        write_atomic(folder / f"{stem}.md", self.to_markdown())

    def to_markdown(self) -> str:
        """For people: a table of methods, one of everything else, and what was left out."""
        about = self.about
        lines = [
            f"# GPU check: {about['backbone']} on {about['machine']}",
            "",
            f"Random weights, {about['dtype']}, {about['attention']}, images in tiles; {about['seconds']} s on "
            f"{about['environment']['started']}. Logits: root mean square of the difference over their own spread.",
            "",
            _pipes(["method", *(title for title, *_ in COLUMNS)]),
            _pipes(["---", *(["---:"] * len(COLUMNS))]),
        ]
        methods = dict.fromkeys(result["method"] for result in self.results if result["check"] == COLUMNS[0][1])
        lines += [_pipes([method, *(self._entry(method, *column) for column in COLUMNS)]) for method in methods]
        lines += ["", _pipes(["check", "method", "outcome", "values", "s"]), _pipes(["---"] * 5)]
        shown = {check for _, check, _, _ in COLUMNS}
        for result in self.results:
            if result["check"] not in shown or result["outcome"] == "failed":
                values = result.get("reason") or _values(result.get("values", {}))
                seconds = str(result.get("seconds", ""))
                lines.append(_pipes([result["check"], result["method"], result["outcome"], values, seconds]))
        left_out = [f"{r['check']} {r['method']}".strip() for r in self.results if r["outcome"] == "left out"]
        lines += ["", f"Left out, as the time was nearly over: {', '.join(left_out) or 'nothing'}."]
        return "\n".join(lines) + "\n"

    def _entry(self, method: str, title: str, check: str, value: str, form: str | None) -> str:
        result = next((r for r in self.results if (r["check"], r["method"]) == (check, method)), None)
        if result is None or result["outcome"] != "passed":
            return result["outcome"] if result is not None else "-"
        number = result["values"][value]
        if number is None:
            return "-"
        if form is None:
            number, form = (number / GIB, "{:.2f}") if "GiB" in title else (number / 1024**2, "{:.1f}")
        return form.format(number)


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pipes(cells: list[str]) -> str:
    return f"| {' | '.join(text.replace('|', '/') for text in cells)} |"
