"""Features, attention and per-token probes of the cells of one probe file. Heavy: brings torch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vr_eval.config.cell import Cell
from vr_eval.models.build import cell_model
from vr_eval.models.hub import quiet_loading
from vr_eval.probes.data.base import ProbeData, Split
from vr_eval.probes.dense import SUITES, can_be_dense, dense_probe
from vr_eval.probes.density import Density
from vr_eval.probes.extract import Encodings, Extracted, Place, Subject, extract
from vr_eval.probes.file import probe_id
from vr_eval.probes.fit import Fitted, Task, fit_taps
from vr_eval.probes.options import ProbeFile
from vr_eval.probes.tapnames import selected
from vr_eval.probes.taps import taps_of

TOGETHER = 200_000_000
"""Parameters of the models that are in memory at once, so that they share what a tower gives for an image."""

Rows = list[dict[str, Any]]


@dataclass
class Session:
    """What all cells share.

    Attributes:
        file: The keys of the probe file.
        data: The data sets.
        folder: Of the feature store.
        device: Where models run and probes are fitted.
        taps: Cell id to the taps that were read.
    """

    file: ProbeFile
    data: Sequence[ProbeData]
    folder: Path
    device: torch.device
    say: Callable[[str], None]
    taps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    density: Rows = field(default_factory=list)
    dense: Rows = field(default_factory=list)
    features: dict[tuple[str, str], tuple[Extracted, Extracted]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        quiet_loading()

    def load(self, cell: Cell, checkpoint: Path | None) -> Subject:
        """The inference version of a cell's model; without a checkpoint, one on random weights.

        Raises:
            InputError: It cannot be loaded or built.
        """
        model, processor = cell_model(cell, checkpoint, device=self.device)
        model.to_inference().to(self.device)
        return Subject.of(model, processor, self.file.prompt)

    def read(self, subjects: Mapping[str, Subject], *, dense: bool) -> None:
        """Everything that needs the models: features of all data, attention, per-token probes."""
        self.extract(subjects)
        for name, subject in subjects.items():
            self._watch(name, subject)
            if dense:
                self._read_dense(name, subject)

    def extract(self, subjects: Mapping[str, Subject]) -> None:
        """Features of all data, through the store."""
        for name, subject in subjects.items():
            every = taps_of(subject.model)
            self.taps[name] = every if self.file.taps is None else selected(self.file.taps, every)
        asked = [self.taps[name] for name in subjects]
        for data in self.data:
            splits = []
            for title, split in (("training", data.train), ("test", data.test)):
                with _bar(f"{data.name}, {title} images", len(split)) as progress:
                    found = extract(
                        list(subjects.values()),
                        split,
                        asked,
                        self.file.pools,
                        self.folder,
                        self.file.batch_size,
                        progress,
                    )
                splits.append(found)
            for name, train, test in zip(subjects, *splits, strict=True):
                self.features[name, data.name] = train, test

    def fit(self) -> Rows:
        """Probes on everything that was read; taps that cells share are fitted once."""
        rows: Rows = []
        for data in self.data:
            for target, classes in data.targets.items():
                for probe in self.file.probes:
                    self.say(f"{data.name}: {probe} probes of {target}")
                    rows += self._rows(data, target, classes, probe)
        return rows

    def _rows(self, data: ProbeData, target: str, classes: int, probe: str) -> Rows:
        shared: dict[str, tuple[Any, Any]] = {}
        wanted: list[tuple[str, Place, str]] = []
        for (cell, name), (train, test) in self.features.items():
            for place, key in train.keys.items() if name == data.name else ():
                shared.setdefault(key, (train.features[place], test.features[place]))
                wanted.append((cell, place, key))
        task = Task(
            train=data.train.labels[target],
            test=data.test.labels[target],
            classes=classes,
            probe=probe,
            strengths=self.file.strengths,
            heldout=self.file.heldout,
            seed=self.file.seed,
        )
        arrays = list(shared.values())
        fitted = fit_taps([train for train, _ in arrays], [test for _, test in arrays], task, self.device)
        by_key = dict(zip(shared, fitted, strict=True))
        named = {"data": data.name, "target": target, "probe": probe}
        return [
            {**named, "pool": place[1], "cell": cell, "tap": place[0], **_row(by_key[key])}
            for cell, place, key in wanted
        ]

    def _watch(self, name: str, subject: Subject) -> None:
        """Attention to vision tokens on the first test images of the first data set."""
        split: Split = self.data[0].test
        rows = range(min(self.file.attention_images, len(split)))
        shares: dict[int, list[torch.Tensor]] = {}
        even: dict[int, list[torch.Tensor]] = {}
        for span, pixels in subject.batches(split, rows, self.file.batch_size):
            density = Density(subject.model)
            encoded = Encodings([subject], pixels).of(subject)
            subject.run(encoded, len(span), lambda tap, tokens, kept: None, inside=density.watching)
            for layer, share in density.shares.items():
                shares.setdefault(layer, []).append(share)
                even.setdefault(layer, []).append(density.even[layer])
        for layer, parts in shares.items():
            row = {"cell": name, "layer": layer, "share": torch.cat(parts).tolist()}
            self.density.append(row | {"even": float(torch.cat(even[layer]).mean())})

    def _read_dense(self, name: str, subject: Subject) -> None:
        if not can_be_dense(subject.model):
            return
        scenes = (self.file.dense_images, self.file.dense_test_images)
        total = len(SUITES) * (scenes[0] + max(1, scenes[0] // 4) + scenes[1])
        with _bar("per-token probes, scenes", total) as progress:
            found = dense_probe(subject, scenes, self.file.strengths, self.file.batch_size, progress)
        for tap, result in found.items():
            row = {"cell": name, "tap": tap, "strength": result.strength}
            self.dense.append(row | {"correct": result.correct.tolist(), "total": result.total.tolist()})


def groups(
    session: Session, cells: Iterable[tuple[Cell, Path | None]], fail: Callable[[Cell, Exception], None]
) -> Iterator[dict[str, Subject]]:
    """The models of `cells`, as many at a time as fit together; those that cannot be loaded are told to `fail`."""
    some: dict[str, Subject] = {}
    held = 0
    for cell, checkpoint in cells:
        try:
            subject = session.load(cell, checkpoint)
        except Exception as error:  # one cell must not stop the others, whatever it is
            fail(cell, error)
            continue
        size = sum(parameter.numel() for parameter in subject.model.parameters())
        if some and held + size > TOGETHER:
            yield some
            some, held = {}, 0
            gc.collect()
        some[probe_id(cell)] = subject
        held += size
    if some:
        yield some


def _row(fitted: Fitted) -> dict[str, Any]:
    return {
        "strength": fitted.strength,
        "heldout": list(fitted.heldout),
        "correct": fitted.correct.tolist(),
        "control": fitted.control.tolist(),
    }


class _bar:
    """A bar over images (none where stderr is no terminal); gives how it is moved on."""

    def __init__(self, title: str, total: int) -> None:
        self.bar = tqdm(total=total, desc=title, unit="img", leave=False, disable=None)

    def __enter__(self) -> Callable[[int], Any]:
        return self.bar.update

    def __exit__(self, *error: object) -> None:
        self.bar.close()
