"""Which device a run computes on. Brings torch."""

from __future__ import annotations

import re

import torch

from vr_eval.errors import InputError, Problem


def pick_device(name: str) -> torch.device:
    """`auto` takes the first GPU if there is one. Raises InputError for a device that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"[\n.]", str(error))[0]
        problem = Problem(f"this device cannot be used: {reason}", "--device", given=name, allowed="auto, cpu, cuda:N")
        raise InputError(problem) from error
    return device
