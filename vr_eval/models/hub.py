"""Loading from the Hugging Face hub, its cache or a folder: how, and what to do when it does not work."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import BitsAndBytesConfig

from vr_eval.errors import InputError, Problem, nearest
from vr_eval.models.spec import Source

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
WHOLE = ("vision_tower", "projector", "refusion")
"""Modules of an LVLM that are never quantised: small, and what a comparison is about."""
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")


@dataclass(frozen=True)
class Loading:
    """How weights are loaded.

    Attributes:
        dtype: A name in ``DTYPES``.
        device_map: As accelerate takes it (``auto``, a device); ``None`` leaves everything on the CPU.
        attention: A name in ``ATTENTIONS``; ``None`` for transformers' choice.
        bits: 4 or 8: weights of linear layers are quantised by bitsandbytes, those of methods are not.
    """

    dtype: str = "float32"
    device_map: str | None = None
    attention: str | None = None
    bits: int | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def arguments(self, whole: tuple[str, ...] = ()) -> dict[str, Any]:
        """Arguments of ``from_pretrained``; modules named in `whole` are never quantised.

        Raises:
            InputError: an unknown name, or a package that is not installed.
        """
        self._check()
        arguments: dict[str, Any] = {"dtype": self.torch_dtype}
        if self.device_map is not None:
            arguments["device_map"] = self.device_map
        if self.attention is not None:
            arguments["attn_implementation"] = self.attention
        if self.bits is not None:
            kind = {"load_in_4bit": True} if self.bits == 4 else {"load_in_8bit": True}
            compute = {"bnb_4bit_compute_dtype": self.torch_dtype} if self.bits == 4 else {}
            arguments["quantization_config"] = BitsAndBytesConfig(
                **kind, **compute, llm_int8_skip_modules=[*whole, "lm_head"]
            )
        return arguments

    def _check(self) -> None:
        problems = []
        for name, given, allowed in (
            ("dtype", self.dtype, tuple(DTYPES)),
            ("attention", self.attention, ATTENTIONS),
            ("bits", self.bits, (4, 8)),
        ):
            if given is not None and given not in allowed:
                words = ", ".join(map(str, allowed))
                close = nearest(given, map(str, allowed))
                problems.append(Problem("this value does not fit", key=name, given=given, allowed=words, nearest=close))
        needed = {
            "flash_attn": self.attention == "flash_attention_2",
            "bitsandbytes": self.bits is not None,
            "accelerate": self.device_map is not None,
        }
        for package, wanted in needed.items():
            if wanted and importlib.util.find_spec(package) is None:
                key = {"flash_attn": "attention", "bitsandbytes": "bits"}.get(package, "device_map")
                hint = f"Install it (pip install {package.replace('_', '-')}), or leave this out."
                problems.append(Problem(f"this needs the package {package}", key=key, hint=hint))
        if problems:
            raise InputError(problems)


@contextmanager
def explained(source: Source, what: str = "the model") -> Iterator[None]:
    """Turn what transformers and the hub raise into one message about `source`.

    Raises:
        InputError: `what` cannot be found, reached or read.
    """
    try:
        yield
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise InputError(_problem(source, what, error)) from error


def _problem(source: Source, what: str, error: BaseException) -> Problem:
    name, revision = source.name, source.revision
    chain = list(_chain(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in chain)

    text = " ".join(str(cause) for cause in chain)
    if caused_by(GatedRepoError) or "gated repo" in text:
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


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
