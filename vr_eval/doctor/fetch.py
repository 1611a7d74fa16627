"""Downloads what a grid needs into the Hugging Face caches, from where a run reads it without network."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import datasets
import httpx2
from huggingface_hub import constants, get_token, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, XetDownloadError

from vr_eval.config.grid import Grid
from vr_eval.doctor.disk import space_needed
from vr_eval.doctor.hub import Hub, files_of, look, size_of
from vr_eval.doctor.needs import Need, needs_of
from vr_eval.doctor.patience import patiently
from vr_eval.errors import InputError, Problem, VrEvalError, causes
from vr_eval.models.connection import steady
from vr_eval.notation import bytes_text
from vr_eval.places import FULL, check_all, check_data_cache, check_hub_cache, data_cache, not_writable, place_of

Say = Callable[[str], None]


class HubError(VrEvalError):
    """The hub cannot be reached; trying again later may help."""


def fetch_grid(grid: Grid, say: Say) -> int:
    """Download the datasets and weights of `grid` that are not cached yet; returns the exit code.

    A download that breaks off goes on where it was, and what may pass is tried again for half a minute. Every whole
    file is kept whatever happens, and not downloaded again; a part of one is not, as the hub's library keeps none.

    Raises:
        InputError: a cache cannot be written, the disk is too small or full, there is to be no network, or something
            cannot be had (all of it).
        HubError: the hub cannot be reached.
    """
    missing = [need for need in needs_of(grid) if not need.cached]
    if not missing:
        say(f"everything that {grid.name} needs is there already")
        return 0
    _check_hub(look(), missing)
    check_all(partial(check_hub_cache, [need.name for need in missing]), check_data_cache)
    asked: set[str] = set()
    problems: list[Problem] = []
    # What is fetched may name more: a checkpoint of the original layout leaves its vision tower elsewhere.
    while missing:
        problems += _fetch(missing, say)
        asked |= {need.label for need in missing}
        missing = [need for need in needs_of(grid) if not need.cached and need.label not in asked]
    if problems:
        raise InputError(problems)
    say(f"{grid.name} can run without network now")
    return 0


def _fetch(missing: Sequence[Need], say: Say) -> list[Problem]:
    """Download all of `missing`; what of it cannot be had.

    Raises:
        InputError: the disk is too small or full.
    """
    sizes = [size_of(need) for need in missing]
    _check_disk(missing, sizes)
    problems: list[Problem] = []
    for number, (need, size) in enumerate(zip(missing, sizes, strict=True), 1):
        say(f"[{number}/{len(missing)}] {need.label} ({bytes_text(size)})")
        try:
            with explained(need):
                steady()
                patiently(partial(_download, need), say)
        except InputError as error:
            if _is_full(error):
                raise
            problems += error.problems
    return problems


def _download(need: Need) -> None:
    if need.kind == "weights":
        snapshot_download(need.name, revision=need.part, allow_patterns=files_of(need))
    elif need.kind == "training data":
        datasets.load_dataset(need.name, split="train", revision=need.part)
    else:
        # The same call as lmms-eval's, which then finds it in the cache.
        token = True if get_token() else None
        datasets.load_dataset(need.name, need.part, cache_dir=str(data_cache()), token=token)


def _check_hub(hub: Hub, missing: Sequence[Need]) -> None:
    count = f"{len(missing)} things are missing; `vr-eval doctor` with the same arguments names them"
    if hub.state == "offline":
        hint = f"Unset it and run this command again: {count}."
        raise InputError(Problem("HF_HUB_OFFLINE is set, so nothing can be fetched", hint=hint))
    if hub.state == "unreachable":
        raise HubError(f"{hub.endpoint} cannot be reached: {hub.reason}; {count}")


def _check_disk(missing: Sequence[Need], sizes: Sequence[int | None]) -> None:
    problems = [
        Problem(
            f"the disk has {bytes_text(place.free)} left, and this takes about {bytes_text(place.wanted)}",
            file=str(place.folder),
            hint="Free some space, or set HF_HOME to a folder on a larger disk.",
        )
        for place in space_needed(dict(zip(missing, sizes, strict=True)))
        if place.wanted > place.free
    ]
    if problems:
        raise InputError(problems)


@contextmanager
def explained(need: Need) -> Iterator[None]:
    """What the hub and its libraries raise as one message with a remedy.

    Raises:
        InputError: anything but a bug.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError, httpx2.HTTPError, XetDownloadError) as error:
        raise InputError(_problem(need, list(causes(error)))) from error


def _problem(need: Need, chain: Sequence[BaseException]) -> Problem:
    text = " ".join(map(str, chain))
    page = f"{constants.ENDPOINT}/{'' if need.kind == 'weights' else 'datasets/'}{need.name}"
    kinds = tuple(map(type, chain))
    # Arrow tells the number in words only.
    if any(isinstance(cause, OSError) and cause.errno in FULL for cause in chain) or os.strerror(errno.ENOSPC) in text:
        hint = (
            "Free some space, or set HF_HOME to a folder on a larger disk; the same command goes on where it stopped."
        )
        return Problem("the disk is full (or the quota is used up)", file=str(constants.HF_HOME), hint=hint)
    refused = next((cause for cause in chain if isinstance(cause, PermissionError)), None)
    if refused is not None:
        return not_writable(refused, place_of(refused, constants.HF_HUB_CACHE))
    if _any(kinds, GatedRepoError) or "is a gated dataset" in text:
        hint = f"Accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN."
        return Problem("it is gated, and there is no token that may read it", file=need.label, hint=hint)
    if _any(kinds, RevisionNotFoundError):
        return Problem("the hub has no such revision of it", file=need.label, given=need.part, hint=f"See {page}.")
    if _any(kinds, RepositoryNotFoundError) or _any(kinds, datasets.exceptions.DatasetNotFoundError):
        hint = f"See whether {page} is still there; what is private needs `hf auth login` or HF_TOKEN."
        return Problem("the hub does not have it, or not for you", file=need.label, hint=hint)
    first = (str(chain[0]).strip().splitlines() or [type(chain[0]).__name__])[0]
    return Problem(f"cannot be fetched: {first}", file=need.label, hint="Try again: what is there is kept.")


def _any(kinds: Sequence[type[BaseException]], wanted: type[BaseException]) -> bool:
    return any(issubclass(kind, wanted) for kind in kinds)


def _is_full(error: InputError) -> bool:
    return any(problem.message.startswith("the disk is full") for problem in error.problems)
