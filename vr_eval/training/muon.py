"""Muon for hidden matrices beside AdamW for the rest, as the one optimizer that a Trainer can hold."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim.muon import zeropower_via_newtonschulz
from torch.optim import AdamW, Muon, Optimizer


class Float32Muon(Muon):
    """torch's Muon with its Newton-Schulz iterations in float32, scaled to steps of AdamW's size.

    torch runs them in bfloat16, which a CPU without the instructions emulates: more than half of a step of the micro
    decoder's training went there.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        average = state.setdefault("momentum_buffer", torch.zeros_like(gradient))
        average.lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
        direction = zeropower_via_newtonschulz(
            direction,
            group["ns_steps"],
            [group["ns_coefficients"]] * group["ns_steps"],
            group["eps"],
            dtype=torch.float32,
        )
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        # The root mean square of AdamW's steps (Moonlight, arXiv 2502.16982), so that rates mean the same for both.
        parameter.add_(direction, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


class MuonAdamW(Optimizer):
    """Two optimizers that step, schedule and resume together (Muon: Jordan et al., 2024; both are torch's).

    `param_groups` are those of the two, Muon's first, so that one learning-rate schedule drives both.
    """

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        # Not Optimizer.__init__, which would make groups of its own: this class has none.
        self._parts = (muon, adamw)
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [group for part in self._parts for group in part.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        return {key: value for part in self._parts for key, value in part.state.items()}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self._parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self._parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
