"""Which checkpoint is published, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vr_eval.checksums import MANIFEST, read_manifest
from vr_eval.config.checkpoint_folders import checkpoint_named
from vr_eval.errors import InputError, Problem, nearest
from vr_eval.records.cell import CellRecord
from vr_eval.reporting.source import Source, read_run


@dataclass(frozen=True)
class Chosen:
    """A checkpoint of ours.

    Attributes:
        folder: Where it lies.
        manifest: Its `checkpoint.json`.
        run: The run that it was evaluated in; None where there is none to tell of.
        labels: The rows of that run's table that are answered by it.
    """

    folder: Path
    manifest: Mapping[str, Any]
    run: Source | None = None
    labels: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Of the checkpoint."""
        return str(self.manifest.get("checkpoint_id", ""))

    @property
    def sources(self) -> Mapping[str, str]:
        """The models that it was made from, with their commits; empty for the embedded backbone."""
        return dict(self.manifest.get("sources", {}))


def choose(source: str | Path, cell: str | None = None) -> Chosen:
    """The checkpoint of a run directory, of a folder or of an id.

    Args:
        source: What `vr-eval run` wrote, a checkpoint's folder, or the id of a checkpoint on this machine.
        cell: Of a run with several checkpoints, which: the label or the id of a cell, or the checkpoint's id.

    Raises:
        InputError: there is none, several would do, or it has no weights of its own or random ones.
    """
    folder = checkpoint_named(str(source)) or Path(source)
    if (folder / MANIFEST).is_file() or not folder.is_dir():
        return _with_weights(Chosen(folder, read_manifest(folder)))
    run = read_run(folder)
    if run.random_weights:
        raise InputError(Problem("a run on random weights has no checkpoint to publish", file=str(folder)))
    cells = list(run.cells.values())
    named = [name for one in cells for name in (one.label, one.cell_id, one.checkpoint_id)]
    wanted = [one for one in cells if cell in (None, one.label, one.cell_id, one.checkpoint_id)]
    ids = {one.checkpoint_id for one in wanted}
    if len(ids) != 1:
        allowed = "; ".join(dict.fromkeys(one.label for one in cells))
        if len(wanted) > 1 and cell is not None:  # one label, several seeds
            allowed = "; ".join(sorted(ids))
        message = "say which checkpoint: the run has several" if wanted else "the run has no such cell"
        close = nearest(cell, named) if cell is not None else None
        raise InputError(Problem(message, str(folder), key="cell", given=cell, allowed=allowed, nearest=close))
    (id,) = ids
    found = checkpoint_named(id) or _where(wanted[0])
    if found is None:
        hint = "The grid's own command trains it again: vr-eval train FILE."
        raise InputError(Problem(f"the checkpoint {id} is not on this machine", file=str(folder), hint=hint))
    labels = dict.fromkeys(one.label for one in cells if one.checkpoint_id == id)
    return _with_weights(Chosen(found, read_manifest(found), run, tuple(labels)))


def _where(cell: CellRecord) -> Path | None:
    """Where the run found a cell's checkpoint, if it is there still."""
    if cell.checkpoint is None or cell.checkpoint.path is None:
        return None
    path = Path(cell.checkpoint.path)
    return path if (path / MANIFEST).is_file() else None


def _with_weights(chosen: Chosen) -> Chosen:
    if "source" in chosen.manifest:
        name = str(chosen.manifest["source"].get("name"))
        message = "this checkpoint is a published model itself, with nothing of its own to publish"
        raise InputError(Problem(message, file=str(chosen.folder), given=name))
    return chosen
