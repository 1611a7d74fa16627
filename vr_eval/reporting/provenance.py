"""Where every number of a report comes from: the run, its machine, cells and tasks, and the publications cited."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vr_eval.config.decoding import Decoding
from vr_eval.records.columns import CELL_ID, FAILURE, RUN_ID
from vr_eval.records.folder import RunFolder
from vr_eval.records.json_file import plain
from vr_eval.reporting.columns import row_name
from vr_eval.reporting.configurations import Configuration
from vr_eval.reporting.definition import Citation, Definition
from vr_eval.reporting.notation import listing, plural, share, visible
from vr_eval.reporting.scores import Scores
from vr_eval.reporting.source import Source

SHOWN_FACTS = 80

# (term, what it means, tag)
DEFINITIONS = (
    (
        "Score",
        "A task's score is the mean over its answered questions, a suite's the mean over its tasks, the average the "
        "mean over suites. With several seeds each question is first averaged over its seeds. Known only if every "
        "part is.",
        "ours",
    ),
    (
        "95 % interval",
        "A t interval from standard errors that are robust to clusters, one cluster per image, after Miller 2024 "
        "(arXiv 2411.00640), with the factor G / (G − 1) for G clusters. Tasks count as independent; their variances "
        "add, with Welch–Satterthwaite degrees of freedom. It speaks about other questions of the same sort, "
        "not about another training seed.",
        "ours",
    ),
    (
        "Where all scores are the same",
        "For instance all right, or two methods that never differ. No interval of no width is claimed: with 95 % "
        "confidence at most 1 − 0.05^(1/G) of the clusters (about 3/G) would have come out otherwise, and the "
        "bound is the worst that those could do.",
        "ours",
    ),
    (
        "Difference",
        "Paired by question, on the questions that both rows answered, so with less than full coverage it need not "
        "be the difference of the two averages shown. Holm's correction covers all comparisons of a column.",
        "ours",
    ),
    (
        "Coverage",
        "Answered of all questions asked. A question that failed is left out of the means and never counts as wrong.",
        "ours",
    ),
    ("Ratio", "1/4: the projector keeps a quarter of the vision tokens.", "ours"),
    (
        "GFLOPs",
        "Billions of operations from the pixels of one image to the logits of the first answer token, under a prompt "
        "of 32 text tokens. A model that cuts images into tiles is shown a square one of twice its tower's side. "
        "Counted while the model ran: matrix products, convolutions and attention, a multiply-add as two, every pair "
        "that attention is handed, masked or not. Norms, activations, pooling and interpolation are not counted.",
        "ours",
    ),
    (
        "ms / question",
        "Wall time of a batch divided by its questions, in this run on the machine below. Cells may share work (vision "
        "features are computed once), so it is no benchmark of a method.",
        "measured",
    ),
)
TAGS = (
    ("paper", "stated by the paper, on the backbone named there; nothing of it was run here"),
    ("ours", "this project's own definition"),
    ("measured", "this project ran it, in this run"),
)


@dataclass(frozen=True)
class Sources:
    """Rows of the tables at the end of the page; all texts are made visible."""

    environment: tuple[tuple[str, str], ...]
    cells: tuple[tuple[str, ...], ...]
    tasks: tuple[tuple[str, ...], ...]
    cited: tuple[Citation, ...]
    definitions: tuple[tuple[str, str, str], ...] = DEFINITIONS
    tags: tuple[tuple[str, str], ...] = TAGS


def read_sources(source: Source, scores: Scores, definition: Definition) -> Sources:
    """Collect them."""
    records = RunFolder(source.path).records
    digest = hashlib.sha256(records.read_bytes()).hexdigest()
    environment = plain(source.environment) if source.environment is not None else {}
    facts = [*_flat(environment), (f"{records.name}, sha256", digest)]
    return Sources(
        environment=tuple((visible(key, 80), visible(value, 300)) for key, value in facts[:SHOWN_FACTS]),
        cells=tuple(
            _cell(source, cell, row, definition) for row in scores.configurations for cell in row.cells.values()
        ),
        tasks=tuple(
            (
                visible(definition.suite(task.suite), 40),
                visible(task.name, 80),
                visible(task.metric, 80),
                f"{task.doc_ids.size:,}",
                f"{len(set(task.clusters.tolist())):,}",
            )
            for task in scores.tasks
        ),
        cited=definition.cited,
        definitions=(
            *DEFINITIONS,
            *(("Decoding", f"{words[0].upper()}{words[1:]}.", "ours") for words in decodings(source)),
        ),
    )


def headline_facts(source: Source, scores: Scores) -> tuple[tuple[str, str], ...]:
    """The line under the answer: when, on what, how much."""
    rows = scores.configurations
    asked = sum(scores.asked * len(row.cells) for row in rows)
    answered = sum(scores.answered(row) for row in rows)
    seeds = sorted({seed for row in rows for seed in row.cells})
    images = sum(len(set(task.clusters.tolist())) for task in scores.tasks)
    facts = [
        ("Date", source.environment.started[:10] if source.environment is not None else ""),
        ("Backbone", listing(list(dict.fromkeys(row.backbone for row in rows if row.backbone)))),
        ("Configurations", f"{len(rows):,}"),
        ("Seed" if len(seeds) == 1 else "Seeds", ", ".join(map(str, seeds))),
        ("Questions", f"{scores.asked:,} on {plural(images, 'image')}"),
        ("Coverage", share(answered, asked)),
        ("Machine", listing(machines(source))),
    ]
    return tuple((name, visible(value, 120)) for name, value in facts if value)


def decodings(source: Source) -> list[str]:
    """How the answers of the records were generated, each way once; cells from before that was recorded do not say."""
    answered = set(source.records[CELL_ID])
    given = [cell.decoding for name, cell in source.cells.items() if name in answered]
    return list(dict.fromkeys(_decoding(stated) for stated in given if stated is not None))


def _decoding(stated: Mapping[str, Any]) -> str:
    try:
        return str(Decoding(**stated))
    except (TypeError, ValueError):  # of another version
        return visible(listing([f"{name} {value}" for name, value in stated.items()], len(stated)), 300)


def machines(source: Source) -> list[str]:
    """The devices that the cells ran on, each once; cells that do not say ran on the run's."""
    found = []
    for cell in source.cells.values():
        known = cell.environment or source.environment
        if known is not None:
            found.append(known.cpu if cell.device == "cpu" or known.gpu is None else known.gpu)
    return list(dict.fromkeys(found))


def machine_notes(source: Source) -> tuple[str, ...]:
    """A warning if times of different machines stand in one column."""
    found = machines(source)
    if len(found) < 2:
        return ()
    return (f"The cells ran on different machines ({listing(found)}): their times cannot be compared.",)


def _cell(source: Source, cell: str, row: Configuration, definition: Definition) -> tuple[str, ...]:
    record = source.cells[cell]
    own = source.records[source.records[CELL_ID] == cell]
    answered = int((own[FAILURE] == "").sum())
    texts = (
        row_name(row, definition),
        record.seed,
        cell,
        record.checkpoint_id,
        record.checkpoint.origin if record.checkpoint is not None else "",
        record.status or ("answered" if answered else "no answers"),
        ", ".join(own[RUN_ID].unique()),
        f"{answered:,} of {len(own):,}",
    )
    return tuple(visible(text, 120) for text in texts)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        elif value is not None and value != "":
            yield (
                f"{prefix}{key}",
                {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value),
            )
