"""The page of a probe run and the CSV files beside it: a pure function of the run directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vr_eval.files import write_atomic
from vr_eval.probes import figures
from vr_eval.probes.records import ProbeRun, read_run
from vr_eval.probes.sentences import dense_sentence, density_sentence, depth_sentence, heat_sentence
from vr_eval.probes.summary import Answers, long_table, questions_of
from vr_eval.probes.tables import dense_table, drop_table, pair_table
from vr_eval.records.json_file import plain
from vr_eval.reporting.html import STYLE, framed, page_templates
from vr_eval.reporting.notation import visible
from vr_eval.reporting.svg import Drawing, drawing
from vr_eval.reporting.tables import RANDOM_WEIGHTS, Table
from vr_eval.reporting.text import to_csv

_EXTRA = """
.heat .wide, .heat .narrow { overflow-x: auto; }
.heat svg { width: auto; min-width: 40rem; max-width: none; height: auto; }
.heat svg text { stroke: none; }
.heat .narrow { max-width: 100%; }
"""
"""Numbers in coloured fields need no halo; a heat map is as wide as its taps ask for, and scrolls."""


@dataclass(frozen=True)
class Section:
    """A heading, one sentence, figures and tables."""

    title: str
    sentence: str
    figures: tuple[Drawing, ...]
    tables: tuple[Table, ...]


def build(run_dir: Path) -> Path:
    """Write `report.html`, `taps.csv` and one CSV per table into `run_dir`; returns the page's path.

    Raises:
        InputError: the folder holds no complete probe run, or cannot be written.
    """
    run = read_run(Path(run_dir))
    answers = [Answers(run, question) for question in questions_of(run)]
    answers = [one for one in answers if one.taps]
    with drawing():
        sections = [_section(run, number, one) for number, one in enumerate(_first(answers))]
        sections += _others(run)
    rest = [drop_table(one) for one in answers if one not in _first(answers)]
    for section in sections:
        for number, table in enumerate(section.tables):
            write_atomic(run.path / f"{_file_name(section.title, number)}.csv", to_csv(table))
    write_atomic(run.path / "taps.csv", long_table(run, answers).to_csv(index=False, float_format="%.4f"))
    path = run.path / "report.html"
    write_atomic(path, _render(run, sections, rest))
    return path


def _first(answers: Sequence[Answers]) -> list[Answers]:
    """One question per data set and target: the others repeat it with another probe or pool."""
    found: dict[tuple[str, str], Answers] = {}
    for one in answers:
        found.setdefault((one.question.data, one.question.target), one)
    return list(found.values())


def _section(run: ProbeRun, number: int, one: Answers) -> Section:
    caption = (
        "Tower: hidden states, 0 the embeddings; P: behind the projector; decoder: behind each layer, with a point "
        "between layers behind each refusion or pruning. Bands: 95 % bootstrap intervals over images; dotted: chance. "
        "Under each name its changes in points: the two losses that the paper names (information bottleneck in token "
        "compression, at the projector; forgetting, along the decoder), and what refusion and pruning do of it."
    )
    shown = [
        figures.depth_figure(f"depth{number}", caption, figures.lines_of(one), one.tower_depth, one.question.chance),
        figures.heat_map(f"heat{number}", heat_sentence(one), one),
    ]
    tables = [table for table in (drop_table(one), pair_table(one)) if table is not None]
    asks = {"class": "what is there", "place": "where it is"}.get(one.question.target, one.question.target)
    return Section(f"{one.question.data}: {asks}", depth_sentence(one), tuple(shown), tuple(tables))


def _others(run: ProbeRun) -> list[Section]:
    found = []
    table = dense_table(run)
    if table is not None:
        caption = "Glyphs read from single tokens along the depth; bands: 95 % bootstrap intervals over scenes."
        chart = figures.depth_figure("dense", caption, figures.dense_lines(run), run.about.tower_depth, 0)
        found.append(Section("Single tokens: which glyph is under it", dense_sentence(run), (chart,), (table,)))
    caption = (
        "Of the text tokens behind the image, the mean over tokens, heads and images of the attention that goes to "
        "vision tokens; at each name the last layer's. Definition ours."
    )
    chart_ = figures.density_figure(run, caption)
    if chart_ is not None:
        found.append(Section("Attention density", density_sentence(run), (chart_,), ()))
    return found


def _file_name(title: str, number: int) -> str:
    words = "".join(c if c.isalnum() else " " for c in title.lower()).split()
    return "_".join(words) + ("_pairs" if number else "")


def _render(run: ProbeRun, sections: Sequence[Section], rest: Sequence[Table]) -> str:
    environment = page_templates()
    about = run.about
    facts = [
        ("Backbone", visible(about.backbone, 60) + (", random weights" if about.random_weights else "")),
        ("Models", str(len(about.cells))),
        ("Taps", str(len(set(run.probes["tap"])))),
        ("Test images", ", ".join(f"{data.test:,} {data.name}" for data in about.data)),
        ("Time", f"{about.seconds:.0f} s"),
    ]
    notes = [RANDOM_WEIGHTS] if about.random_weights else []
    notes += [f"Left out, without a checkpoint: {', '.join(about.left_out)}."] if about.left_out else []
    notes += [f"{label} failed: {reason}" for label, reason in about.failed.items()]
    environment_ = [(key, visible(value, 300)) for key, value in plain(about.environment).items()]
    return environment.get_template("probe.html.j2").render(
        about=about,
        question=visible(about.question, 300),
        facts=facts,
        notes=[visible(note) for note in notes],
        sections=sections,
        rest=rest,
        environment=environment_,
        **framed(environment.get_template(STYLE).render() + _EXTRA),
    )
