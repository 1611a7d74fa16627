"""Loading from the Hugging Face hub, its cache or a folder: how, and what to do when it does not work."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
    XetDownloadError,
)
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig
from transformers.utils import logging

from vr_eval.catalog.backbone import ATTENTIONS, BITS, DTYPES, Loading, Source
from vr_eval.errors import InputError, Problem, causes, nearest
from vr_eval.models.cached import check_cached
from vr_eval.models.connection import steady
from vr_eval.places import not_writable, place_of

WHOLE = ("vision_tower", "projector", "refusion")
"""Modules of an LVLM that are never quantised: small, and what a comparison is about."""


def arguments_of(loading: Loading, whole: tuple[str, ...] = ()) -> dict[str, Any]:
    """Arguments of ``from_pretrained``; modules named in `whole` are never quantised.

    Raises:
        InputError: an unknown name, or a package that is not installed.
    """
    check_loading(loading)
    dtype = torch_dtype(loading)
    arguments: dict[str, Any] = {"dtype": dtype}
    if loading.device_map is not None:
        arguments["device_map"] = loading.device_map
    if loading.attention is not None:
        arguments["attn_implementation"] = loading.attention
    if loading.bits is not None:
        kind = {"load_in_4bit": True} if loading.bits == 4 else {"load_in_8bit": True}
        compute = {"bnb_4bit_compute_dtype": dtype} if loading.bits == 4 else {}
        arguments["quantization_config"] = BitsAndBytesConfig(
            **kind, **compute, llm_int8_skip_modules=[*whole, "lm_head"]
        )
    return arguments


def torch_dtype(loading: Loading) -> torch.dtype:
    """The dtype that `loading` names."""
    return getattr(torch, loading.dtype)


def check_loading(loading: Loading) -> None:
    """Refuse what cannot be done here, before anything is loaded.

    Raises:
        InputError: an unknown name, or a package that is not installed.
    """
    problems = []
    for name, allowed in (("dtype", DTYPES), ("attention", ATTENTIONS), ("bits", BITS)):
        given = getattr(loading, name)
        if given is not None and given not in allowed:
            words = ", ".join(map(str, allowed))
            close = nearest(given, map(str, allowed))
            problems.append(Problem("this value does not fit", key=name, given=given, allowed=words, nearest=close))
    needed = (
        ("flash_attn", "attention", loading.attention == "flash_attention_2"),
        ("bitsandbytes", "bits", loading.bits is not None),
        ("accelerate", "device_map", loading.device_map is not None),
    )
    for package, key, wanted in needed:
        if wanted and importlib.util.find_spec(package) is None:
            hint = f"Install it (pip install {package.replace('_', '-')}), or leave this out."
            problems.append(Problem(f"this needs the package {package}", key=key, hint=hint))
    if problems:
        raise InputError(problems)


def quiet_loading() -> None:
    """From here on transformers loads without bars and reports: what matters of it comes as an exception."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


_COMMITS: dict[Source, str] = {}
_REASONS = (SafetensorError, OSError, ValueError, KeyError, ImportError, RuntimeError)


def commit_of(source: Source) -> str | None:
    """The commit that a model's branch or tag stands for, the same one as long as this process lives.

    None for a folder, and where neither the hub nor its cache says it.
    """
    if Path(source.name).is_dir():
        return None
    if source not in _COMMITS:
        try:
            found = HfApi().resolve_revision(source.name, revision=source.revision)
        except (RevisionResolutionError, OSError, ValueError, httpx2.HTTPError):
            return None  # loading it says why
        _COMMITS[source] = found.resolved
    return _COMMITS[source]


def pinned(source: Source) -> Source:
    """`source` at its commit, so that all its files are of one; as it is where none is known."""
    commit = commit_of(source)
    return source if commit is None else Source(source.name, commit)


def commits(sources: Iterable[Source]) -> dict[str, str]:
    """The commits of those of `sources` that have one."""
    found = {str(source): commit_of(source) for source in sources}
    return {name: commit for name, commit in found.items() if commit is not None}


@contextmanager
def explained(source: Source, what: str = "the model") -> Iterator[None]:
    """Turn what transformers and the hub raise into one message about `source`; its files in the cache are checked.

    Raises:
        InputError: `what` cannot be found, reached or read, or a file of it is damaged.
    """
    steady()
    try:
        check_cached(source)
        yield
        check_cached(source)  # what was not there before
    except InputError:
        raise
    except (*_REASONS, httpx2.HTTPError, XetDownloadError) as error:
        raise InputError(_problem(source, what, error)) from error


def _problem(source: Source, what: str, error: BaseException) -> Problem:
    name, revision = source.name, source.revision
    chain = list(causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    text = " ".join(str(cause) for cause in chain)
    refused = next((cause for cause in chain if isinstance(cause, PermissionError)), None)
    if refused is not None and not Path(name).is_dir():
        return not_writable(refused, place_of(refused, constants.HF_HUB_CACHE))
    # Of what it does not have, the hub's library says that it may be "a private or gated repo".
    if caused_by(GatedRepoError) or "access a gated repo" in text:
        hint = f"Accept its terms at https://huggingface.co/{name}, then log in with `hf auth login` or set HF_TOKEN."
        return Problem(f"{what} is gated, and there is no token that may read it", file=name, hint=hint)
    if caused_by(RevisionNotFoundError) or "is not a valid git identifier" in text:
        hint = f"https://huggingface.co/{name}/commits/main lists its commits."
        return Problem("the hub has no such revision of it", file=name, given=revision, hint=hint)
    if caused_by(LocalEntryNotFoundError, OfflineModeIsEnabled) or "couldn't connect" in text:
        hint = f"Fetch it where there is network: hf download {name} --revision {revision}"
        return Problem(f"{what} is not in the cache, and the hub cannot be reached", file=name, hint=hint)
    if caused_by(RepositoryNotFoundError):
        hint = "Check the name; a private model needs `hf auth login` or HF_TOKEN."
        return Problem(f"the hub has no such model, or not for you ({what})", file=name, hint=hint)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if caused_by(HfHubHTTPError):
        return Problem(f"{what} cannot be downloaded: {first}", file=name, hint="Try again: what is there is kept.")
    if not Path(name).exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        return Problem("there is no such folder", file=name)
    return Problem(f"{what} cannot be loaded: {first}", file=name)


def refuse_others(needed: Mapping[str, tuple[bool, str]], content: Any, source: Source, projector: str) -> None:
    """Refuse a configuration whose values are not those that `projector` computes.

    Args:
        needed: Of every key whether its value fits, and what would, in words.
        content: The configuration, or the content of its file.

    Raises:
        InputError: With every value that does not fit.
    """
    get = content.get if isinstance(content, Mapping) else lambda key: getattr(content, key, None)
    problems = [
        Problem(
            f"the projector {projector} does not compute this", source.name, key=key, given=get(key), allowed=allowed
        )
        for key, (fits, allowed) in needed.items()
        if not fits
    ]
    if problems:
        raise InputError(problems)
