"""``build``: from a run directory to its report files."""

from __future__ import annotations

from pathlib import Path

from vr_eval.files import write_atomic
from vr_eval.records.folder import RunFolder
from vr_eval.reporting.answer import answer
from vr_eval.reporting.definition import Definition, find_definition, read_definition
from vr_eval.reporting.figures import draw_figures
from vr_eval.reporting.html import Page, render, samples_json
from vr_eval.reporting.images import Album, kept_images
from vr_eval.reporting.kinds import kind_tables
from vr_eval.reporting.notation import visible
from vr_eval.reporting.provenance import decodings, headline_facts, machine_notes, read_sources
from vr_eval.reporting.samples import choose_samples, describe_choice, read_samples
from vr_eval.reporting.scores import Scores, read_scores
from vr_eval.reporting.source import Source, read_run
from vr_eval.reporting.tables import RANDOM_WEIGHTS, Table, build_table
from vr_eval.reporting.text import to_csv, to_latex, to_markdown


def build(run_dir: Path) -> Path:
    """Write `report.html`, `table.csv`, `table.md` and `table.tex` into ``run_dir`` and return the page's path.

    The same run directory always gives the same bytes.

    Raises:
        InputError: The run directory is missing or broken, or cannot be written.
    """
    source = read_run(Path(run_dir))
    definition = read_definition(find_definition(source.path, source.name))
    scores = read_scores(source)
    table = _table(source, scores, definition)
    chosen = choose_samples(source.records)
    rows = {cell: row.index for row in scores.configurations for cell in row.cells.values()}
    album = Album(kept_images(source.path))
    page = Page(
        title=table.title,
        question=visible(source.question),
        about=tuple(visible(paragraph) for paragraph in source.about),
        answer=RANDOM_WEIGHTS if source.random_weights else visible(answer(scores, definition), 2000),
        facts=headline_facts(source, scores),
        table=table,
        figures=tuple(draw_figures(scores, definition)),
        kinds=tuple(kind_tables(scores, definition)),
        choices=tuple(describe_choice(source.records, chosen)),
        samples=samples_json(read_samples(source.records, chosen, rows), scores, definition, album),
        images=len(album.uris),
        sources=read_sources(source, scores, definition),
        definition=definition,
    )
    folder = RunFolder(source.path)
    for path, content in (
        (folder.table("csv"), to_csv(table)),
        (folder.table("md"), to_markdown(table)),
        (folder.table("tex"), to_latex(table)),
        (folder.page, render(page)),
    ):
        write_atomic(path, content)
    return folder.page


def run_table(run_dir: Path) -> Table:
    """The main table of a run, for instance for ``render_terminal``.

    Raises:
        InputError: The run directory is missing or broken.
    """
    source = read_run(Path(run_dir))
    definition = read_definition(find_definition(source.path, source.name))
    return _table(source, read_scores(source), definition)


def _table(source: Source, scores: Scores, definition: Definition) -> Table:
    notes = (*source.notes, *machine_notes(source))
    return build_table(scores, definition, source.name, notes, decodings(source), random_weights=source.random_weights)
