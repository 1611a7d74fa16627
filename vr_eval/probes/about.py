"""`probe.json`: what a probe run asked, of which models, and on what machine. Light: no pandas, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vr_eval.config.checkpoint_folders import Came
from vr_eval.environment import Environment
from vr_eval.methods.registry import NONE
from vr_eval.probes.options import ProbeFile
from vr_eval.records.json_file import read_json, write_json

AGAIN = "Run `vr-eval probe FILE` again: features that are stored are not computed again."


@dataclass(frozen=True)
class ProbedData:
    """One data set.

    Attributes:
        summary: What is to be told apart, in one line.
        source: Where it comes from.
        targets: What is asked of an image, with the number of classes.
        train: Training images.
        test: Test images.
    """

    name: str
    summary: str
    source: str
    targets: Mapping[str, int]
    train: int
    test: int


@dataclass(frozen=True, kw_only=True)
class ProbedCell:
    """One model: a row of every table.

    Attributes:
        id: Names it in the tables beside this file (`probes.file.probe_id`).
        label: Its cell's, with the seed where another differs in nothing else.
        image: The method in the image seam; older files do not say: none.
        tokens: Vision tokens per image.
        without_refusion: The id of the cell that differs in its refusion alone, if that was asked for too.
        taps: Where its features were read, in the order of a forward pass.
        checkpoint: Names its checkpoint.
        origin: Where its weights came from.
    """

    id: str
    label: str
    projector: str
    ratio: int
    refusion: str
    pruning: str
    image: str = NONE
    seed: int
    tokens: int
    is_baseline: bool
    without_refusion: str | None
    taps: tuple[str, ...]
    checkpoint: str
    origin: Came

    def before(self, tap: str) -> str | None:
        """The tap in front of `tap`, if there is one."""
        at = self.taps.index(tap)
        return self.taps[at - 1] if at else None


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """`probe.json`.

    Attributes:
        file: The keys of the probe file.
        source: The probe file, as the user named it.
        question: What it asks: its first comment line, or empty.
        random_weights: Whether the weights of its models were drawn; older files do not say: no.
        cells: The models that were probed.
        left_out: Labels of those without a checkpoint.
        failed: Label of a model that could not be probed to why.
        seconds: Wall time of the command.
    """

    file: ProbeFile
    source: str
    question: str
    backbone: str
    random_weights: bool = False
    tower_depth: int
    decoder_depth: int
    data: tuple[ProbedData, ...]
    cells: tuple[ProbedCell, ...]
    left_out: tuple[str, ...]
    failed: Mapping[str, str]
    environment: Environment
    seconds: float

    @classmethod
    def read(cls, path: Path) -> ProbeRecord:
        """Raises InputError where the file cannot be read or does not fit, with every key."""
        return read_json(cls, path, AGAIN)

    def write(self, path: Path) -> None:
        """In one step. Raises InputError where it cannot be written."""
        write_json(self, path)
