"""Parameters of a model, and which of them its methods add to the backbone."""

from __future__ import annotations

from torch import nn

from vr_eval.models.lvlm import LVLM
from vr_eval.records.costs import Parameters


def parameter_counts(model: LVLM) -> Parameters:
    """Numbers of parameters of the training version `model`."""
    total, projector, refusion = map(_count, (model, model.projector, model.refusion))
    return Parameters(total, projector, refusion, method=projector + refusion)


def _count(module: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0
