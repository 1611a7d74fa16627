"""A checkpoint and its card to the hub, in one commit."""

from __future__ import annotations

from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from vr_eval.checksums import MANIFEST, check_files, file_hashes
from vr_eval.errors import InputError, Problem
from vr_eval.publish.card import model_card
from vr_eval.publish.chosen import Chosen, choose

CARD = "README.md"
OWN_LICENSE = "apache-2.0"
"""Of checkpoints on the embedded backbone, which is this project's own."""


def push_to_hub(
    source: str | Path, repo: str, cell: str | None = None, license: str | None = None, *, private: bool = False
) -> str:
    """Publish a checkpoint with a card made from its run; returns its address.

    Whoever loads it gets the same checkpoint, hashes included: ``vr_eval.load_model(repo)``, or after
    ``import vr_eval`` the Auto classes of transformers.

    Args:
        source: A run directory, a checkpoint's folder or its id.
        repo: ``OWNER/NAME`` on the hub; made if it is not there.
        cell: Of a run with several checkpoints, which: a cell's label or id, or the checkpoint's id.
        license: As the hub names it; default: of the embedded backbone ours, else that of the models it was made from.
        private: Whether a new repository is.

    Raises:
        InputError: no such checkpoint, a damaged one, no name of a repository, an unknown licence, or the hub refuses
            it.
    """
    chosen = _chosen(source, repo, cell)
    check_files(chosen.folder, chosen.manifest)
    card = model_card(chosen, repo, license or license_of(chosen))
    names = [name for name in sorted(file_hashes(chosen.folder)) if name != CARD]
    operations = [CommitOperationAdd(name, chosen.folder / name) for name in (*names, MANIFEST)]
    operations.append(CommitOperationAdd(CARD, card.encode()))
    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        message = f"{chosen.manifest.get('label', 'checkpoint')} ({chosen.id})"
        api.create_commit(address.repo_id, operations, commit_message=message)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx2.HTTPError, OSError, ValueError) as error:
        raise InputError(_refused(repo, error)) from error
    return str(address)


def card_of(source: str | Path, repo: str, cell: str | None = None, license: str | None = None) -> str:
    """The card that `push_to_hub` would write. Raises InputError as it does; nothing is sent."""
    chosen = _chosen(source, repo, cell)
    return model_card(chosen, repo, license or license_of(chosen))


def _chosen(source: str | Path, repo: str, cell: str | None) -> Chosen:
    """`choose`, once `repo` is a name that the hub takes: the card begins with it, and is made without the hub."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(Problem(f"this names no repository: {error}", given=repo, allowed="OWNER/NAME")) from error
    if "/" not in repo:
        raise InputError(Problem("this names no repository", given=repo, allowed="OWNER/NAME"))
    return choose(source, cell)


def license_of(chosen: Chosen) -> str:
    """The licence that all models which a checkpoint was made from have.

    Raises:
        InputError: they have several, or one that the hub does not say.
    """
    if not chosen.sources:
        return OWN_LICENSE
    found: dict[str, str | None] = {}
    for name, commit in chosen.sources.items():
        base = name.partition("@")[0]
        try:
            card = HfApi().model_info(base, revision=commit).card_data
            found[base] = str(card.license) if card is not None and card.license else None
        except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError, OSError, ValueError):
            found[base] = None
    (one, *others) = set(found.values())
    if one is None or others:
        said = ", ".join(f"{base}: {license or 'not known'}" for base, license in found.items())
        raise InputError(Problem("say under which licence it is published", key="license", given=said))
    return one


def _refused(repo: str, error: Exception) -> Problem:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if status in (401, 403):
        hint = "Log in with `hf auth login` or set HF_TOKEN, with a token that may write there."
        return Problem("the hub does not let you write to it", file=repo, hint=hint)
    return Problem(f"it cannot be published: {first}", file=repo)
