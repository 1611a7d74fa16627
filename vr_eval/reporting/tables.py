"""Scores to one frozen table. HTML, Markdown, LaTeX, CSV and the terminal all print this table and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vr_eval.methods.registry import METHODS, NONE
from vr_eval.reporting.columns import SHARED_MARK, SHARED_NOTE, Built, Column, Entry, build_column
from vr_eval.reporting.definition import Definition
from vr_eval.reporting.notation import NOTHING, listing, plural, visible
from vr_eval.reporting.scores import Scores

RANDOM_WEIGHTS = "Random weights: tower and decoder were drawn from a seed, and no score here means anything."
_ALWAYS = ("method", "average", "questions", "coverage")


@dataclass(frozen=True)
class Row:
    """``index`` is the configuration's place in the report, ``label`` its label in the records.

    ``failure`` is set if one of its cells gave no answers at all.
    """

    index: int
    label: str
    entries: tuple[Entry, ...]
    is_baseline: bool = False
    failure: str = ""


@dataclass(frozen=True)
class Table:
    """The report's main table; ``caption`` explains it and says what all rows share, ``notes`` warn the reader.

    ``random_weights``: it is about shapes and speed alone, and says so wherever it is printed.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: tuple[str, ...]
    notes: tuple[str, ...]
    random_weights: bool = False

    def column(self, key: str) -> tuple[Entry, ...]:
        """The entries of one column. Raises KeyError if the table does not show it."""
        for place, column in enumerate(self.columns):
            if column.key == key:
                return tuple(row.entries[place] for row in self.rows)
        raise KeyError(key)


def build_table(
    scores: Scores,
    definition: Definition,
    title: str,
    notes: tuple[str, ...] = (),
    decodings: Sequence[str] = (),
    *,
    random_weights: bool = False,
) -> Table:
    """The table of all configurations. Columns that say the same in every row go into the caption.

    Args:
        decodings: How answers were generated, in words.
    """
    built = [column for key in definition.columns for column in build_column(key, scores, definition)]
    if len(scores.suites) == 1:
        built = [(column, entries) for column, entries in built if column.key != "average"]
    shown = [(column, entries) for column, entries in built if _is_shown(column, entries)]
    rows = tuple(
        Row(
            index=row.index,
            label=visible(f"{row.label} ({row.variant})" if row.variant else row.label, 200),
            entries=tuple(entries[row.index] for _, entries in shown),
            is_baseline=row.is_baseline,
            failure=visible(row.failure, 300),
        )
        for row in scores.configurations
    )
    hidden = [(column, entries) for column, entries in built if not _is_shown(column, entries)]
    return Table(
        title=visible(f"{title} (random weights)" if random_weights else title, 120),
        columns=tuple(column for column, _ in shown),
        rows=rows,
        caption=(
            *_caption(scores, shown, hidden),
            *_training_free(scores, definition),
            *(f"Decoding: {words}." for words in decodings),
        ),
        notes=(*([RANDOM_WEIGHTS] * random_weights), *(visible(note) for note in notes), *_notes(scores)),
        random_weights=random_weights,
    )


def _is_shown(column: Column, entries: list[Entry]) -> bool:
    if column.key in _ALWAYS or column.key.startswith("suite:"):
        return True
    texts = {(entry.text, entry.small, entry.mark) for entry in entries}
    return len(texts) > 1 or (len(entries) == 1 and texts != {(NOTHING, "", "")})


def _caption(scores: Scores, shown: list[Built], hidden: list[Built]) -> list[str]:
    caption = ["Scores are in points, 0 to 100, with the half width of their 95 % interval."]
    compared = [entries for column, entries in shown if column.key in ("baseline", "pair")]
    if compared:
        caption.append(
            "Differences are paired by question, with their 95 % interval: * it excludes zero, "
            "** it still does after Holm's correction for all comparisons of the column."
        )
    if any(entry.mark == SHARED_MARK for _, entries in (*shown, *hidden) for entry in entries):
        caption.append(SHARED_NOTE)
    stated = [(column.title.lower(), entries[0]) for column, entries in hidden if _stated(entries)]
    same = [f"{title} {entry.text}{entry.mark}" for title, entry in stated]
    same += ["no refusion"] if all(row.refusion == NONE for row in scores.configurations) else []
    same += ["no pruning"] if all(row.training_free == () for row in scores.configurations) else []
    if same:
        caption.append(f"The same in all rows: {listing(same, len(same))}.")
    return caption


def _training_free(scores: Scores, definition: Definition) -> list[str]:
    used = dict.fromkeys(name for row in scores.configurations for name in row.training_free)
    names = [definition.name(name) for name in used if name in METHODS and not METHODS[name].trainable]
    if not names:
        return []
    return [
        f"Training-free, so never retrained: {listing(names, len(names))}; such a row uses the checkpoint of the same "
        "configuration without it."
    ]


def _stated(entries: list[Entry]) -> bool:
    return bool(entries) and entries[0].text != NOTHING


def _notes(scores: Scores) -> list[str]:
    """What a reader must know before believing the table."""
    rows, notes = scores.configurations, []
    if not rows:
        notes.append("No cell of this run has started yet.")
    baselines = [row for row in rows if row.is_baseline]
    if rows and not baselines:
        notes.append("The grid names no baseline, or its cell is not here, so nothing is compared with one.")
    elif baselines and not any(scores.answered(row) for row in baselines):
        notes.append("The baseline gave no answers, so nothing is compared with it.")
    if len(baselines) > len({row.backbone for row in baselines}):
        notes.append("The baseline's description fits several rows; differences are taken to the first of them.")
    failed = [row for row in rows if row.failure]
    if failed:
        notes.append(f"{plural(len(failed), 'row')} with a cell that gave no answers: the reason stands in the row.")
    partial = [row for row in rows if 0 < scores.answered(row) < scores.asked * len(row.cells)]
    if partial:
        notes.append(
            f"{plural(len(partial), 'row')} with less than full coverage: questions without an answer are left out of "
            "the means and never count as wrong; differences are taken on the questions that both rows answered."
        )
    if len({tuple(row.cells) for row in rows}) > 1:
        notes.append("Not all rows have the same seeds. Differences use the seeds that both rows have.")
    return notes
