"""The Hugging Face hub as this machine sees it: whether it can be reached, and how large things are. Never hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from huggingface_hub import HfApi, constants, get_session, get_token

from vr_eval.doctor.needs import WEIGHTS, Need, unread

TIMEOUT_S = 4.0
"""Longest wait for one answer of the hub."""

T = TypeVar("T")


@dataclass(frozen=True)
class Hub:
    """The hub, at one moment.

    Attributes:
        state: `offline`: the user wants no network (HF_HUB_OFFLINE).
        endpoint: Its address.
        reason: Why it cannot be reached; empty if it can.
        token: Whether there is a login; which one is never shown.
    """

    state: Literal["reached", "unreachable", "offline"]
    endpoint: str
    reason: str
    token: bool


def look() -> Hub:
    """Ask the hub for a sign of life, for at most `TIMEOUT_S`."""
    endpoint, token = constants.ENDPOINT, get_token() is not None
    if constants.HF_HUB_OFFLINE:
        return Hub("offline", endpoint, "HF_HUB_OFFLINE is set", token)
    answer = in_time(lambda: get_session().head(endpoint, timeout=TIMEOUT_S))
    if isinstance(answer, Exception):
        return Hub("unreachable", endpoint, _first_line(answer), token)
    return Hub("reached", endpoint, "", token)


def size_of(need: Need) -> int | None:
    """Bytes to download, as the hub says; None if it does not say, or not in time."""
    size = in_time(lambda: sum(size or 0 for _, size in _files(need)) if need.kind == "weights" else _stated(need))
    return None if isinstance(size, Exception) else size


def files_of(need: Need) -> list[str]:
    """The files of a model that are read: its weights in one format, and everything that is no weight."""
    return [name for name, _ in _files(need)]


def in_time(ask: Callable[[], T]) -> T | Exception:
    """What `ask` gives, or its error, or a TimeoutError: looking up a name can take longer than any timeout says."""
    answers: list[T | Exception] = []

    def work() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # whatever the network raises is an answer here
            answers.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return answers[0] if answers else TimeoutError(f"no answer within {TIMEOUT_S:g} s")


def _files(need: Need) -> list[tuple[str, int | None]]:
    info = HfApi().model_info(need.name, revision=need.part, files_metadata=True, timeout=TIMEOUT_S)
    return chosen([(file.rfilename, file.size) for file in info.siblings or ()])


def chosen(files: Sequence[tuple[str, int | None]]) -> list[tuple[str, int | None]]:
    """Of a model's files with sizes those that are read."""
    best = next((suffix for suffix in WEIGHTS if any(name.endswith(suffix) for name, _ in files)), "")
    return [(name, size) for name, size in files if not name.endswith(unread(best))]


def _stated(need: Need) -> int | None:
    """The size that a dataset's card states for its configuration."""
    config, revision = (need.part, None) if need.kind == "dataset" else (None, need.part)
    card = HfApi().dataset_info(need.name, revision=revision, timeout=TIMEOUT_S).card_data
    entries = card.get("dataset_info") if card is not None else None
    for entry in entries if isinstance(entries, list) else [entries] if isinstance(entries, dict) else []:
        if config in (None, entry.get("config_name")):
            size = entry.get("download_size")
            return int(size) if size is not None else None
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__
