"""What passes by itself while something is fetched, such as a busy hub, is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError, XetDownloadError

from vr_eval.errors import causes

WAITS_S = (1.0, 3.0, 8.0, 20.0)
"""Waits between one try and the next (ours); a hub that names a longer one is obeyed."""
LONGEST_S = 120.0
"""A hub that asks for more is not waited for."""
BUSY = (408, 429, 500, 502, 503, 504)

T = TypeVar("T")


def patiently(work: Callable[[], T], say: Callable[[str], None]) -> T:
    """What `work` gives, tried again while what it raises may pass.

    Raises:
        Exception: what `work` raises for good, or last.
    """
    for wait in WAITS_S:
        try:
            return work()
        except Exception as error:  # looked at, and raised again unless it is the network's
            pause = _pause(error, wait)
            if pause is None:
                raise
            say(f"  {_reason(error)}; trying again in {pause:.0f} s")
            time.sleep(pause)
    return work()


def _pause(error: Exception, wait: float) -> float | None:
    """Seconds until it is worth another try; None if it is not."""
    asked = [wait]
    passing = False
    for cause in causes(error):
        if isinstance(cause, HfHubHTTPError):
            passing |= cause.response.status_code in BUSY
            after = cause.response.headers.get("Retry-After", "")
            asked += [float(after)] if after.isdecimal() else []
        passing |= isinstance(cause, httpx2.TransportError | XetDownloadError)
    return max(asked) if passing and max(asked) <= LONGEST_S else None


def _reason(error: Exception) -> str:
    for cause in causes(error):
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in BUSY:
            return f"the hub answers {cause.response.status_code}"
    return "the connection broke off"
