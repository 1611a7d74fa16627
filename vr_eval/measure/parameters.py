"""Parameters of a model, and which of them its methods add to the backbone."""

from __future__ import annotations

from torch import nn

from vr_eval.models.lvlm import LVLM


def parameter_counts(model: LVLM) -> dict[str, int]:
    """Numbers of parameters of the training version: `total`, `projector`, `refusion`, and `method`, those two."""
    total, projector, refusion = map(_count, (model, model.projector, model.refusion))
    return {"total": total, "projector": projector, "refusion": refusion, "method": projector + refusion}


def _count(module: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0
