"""What can go wrong between a hub and its users, as a test orders it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Fault:
    """An answer that is not the right one, for a while.

    Attributes:
        path: Pattern (`re.search`) of the paths that it is for.
        method: `GET`, `HEAD` or `POST`; empty for all of them.
        times: How often; -1 for ever.
        status: In place of the right one; 0: the right answer, with what stands below.
        headers: Of that answer.
        cut: Bytes of the body after which the connection ends; None: never.
        reset: The connection ends by a reset, and not in order.
        pause: Seconds before the body is sent.
    """

    path: str
    method: str = "GET"
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    reset: bool = False
    pause: float = 0.0

    def meets(self, method: str, path: str) -> bool:
        """Whether it is for this request; if so, it is used up by one."""
        if self.times == 0 or self.method not in ("", method) or not re.search(self.path, path):
            return False
        self.times -= 1
        return True


NOTHING = Fault("", times=0)
