"""Models: backbones and the LVLM. ``LVLM`` is imported when it is asked for, since it brings torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vr_eval.models.lvlm import LVLM

__all__ = ["LVLM"]


def __getattr__(name: str) -> Any:
    if name == "LVLM":
        from vr_eval.models.lvlm import LVLM

        return LVLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
