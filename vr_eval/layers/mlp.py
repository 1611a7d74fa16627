"""The MLP that projectors share."""

from __future__ import annotations

from torch import nn


def gelu_mlp(width_in: int, width_out: int, depth: int) -> nn.Sequential:
    """Linear, then `depth - 1` times GELU and Linear (LLaVA-1.5's `mlp{depth}x_gelu`)."""
    layers: list[nn.Module] = [nn.Linear(width_in, width_out)]
    for _ in range(depth - 1):
        layers += [nn.GELU(), nn.Linear(width_out, width_out)]
    return nn.Sequential(*layers)
