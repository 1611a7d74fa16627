"""Compress vision tokens, look again, measure: an evaluation harness.

What this package offers to Python code is listed in ``__all__`` and described in ``vr_eval.api``. Nothing of it is
imported before it is asked for, so that ``import vr_eval`` takes no time and brings no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vr_eval.api.autoclasses import announce

if TYPE_CHECKING:
    from vr_eval.api.models import Loaded, load_model, wrap
    from vr_eval.api.runs import load_grid, read_records, report, run
    from vr_eval.publish.push import push_to_hub

__all__ = [
    "Loaded",
    "__version__",
    "load_grid",
    "load_model",
    "push_to_hub",
    "read_records",
    "report",
    "run",
    "wrap",
]

_HOMES = {
    "vr_eval.api.models": ("Loaded", "load_model", "wrap"),
    "vr_eval.api.runs": ("load_grid", "read_records", "run", "report"),
    "vr_eval.publish.push": ("push_to_hub",),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("vr-eval")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


announce()
