"""One table, four formats: the same numbers everywhere, safe in each, and honest about what is missing."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from tests.report.fixture_run import CELLS, FakeCell, make_records, write_run
from vr_eval.reporting import build, render_terminal, run_table
from vr_eval.reporting.columns import Column, Entry
from vr_eval.reporting.tables import Row, Table
from vr_eval.reporting.text import to_csv, to_latex, to_markdown

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class MainTable(HTMLParser):
    """The texts of each field of the page's main table, row by row, without its header."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.inside = dict(attrs).get("id") == "main"
        elif self.inside and tag == "tr":
            self.rows.append([])
        elif self.inside and tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "table"

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += f" {data}"


def numbers(text: str) -> list[float]:
    plain = text.replace("−", "-").replace("$-$", "-").replace("1/4", "0.25").replace(",", "")
    return [float(number) for number in NUMBER.findall(plain)]


def table(tmp_path: Path, records: pd.DataFrame, **options: object) -> Table:
    return run_table(write_run(tmp_path / "run", records, images=False, **options))  # type: ignore[arg-type]


def tiny(text: str) -> Table:
    """One row and one number, `text` wherever a text can stand."""
    columns = (Column("method", text, "", numeric=False), Column("average", "Average", ""))
    entries = (Entry(text, small=text, order=0), Entry("−1.5", order=-1.5))
    return Table(text, columns, (Row(0, text, entries, failure=text),), (text,), (text,))


def test_all_formats_hold_the_numbers_of_the_page(run_dir: Path, report: str) -> None:
    page = MainTable(report).rows[-7:]
    markdown = [line.split(" | ") for line in (run_dir / "table.md").read_text().splitlines() if line.startswith("| ")]
    latex = [line for line in (run_dir / "table.tex").read_text().splitlines() if line.endswith("\\\\")][-7:]
    for html_row, markdown_row, latex_row in zip(page, markdown[2:], latex, strict=True):
        fields = latex_row.replace("scriptsize", "").split(" & ")
        assert [numbers(field) for field in html_row[1:]] == [numbers(field) for field in markdown_row[1:]]
        assert [numbers(field) for field in html_row[1:]] == [numbers(field) for field in fields[1:]]


def test_csv_holds_the_same_numbers_with_their_interval_in_columns_of_their_own(run_dir: Path, report: str) -> None:
    page = MainTable(report).rows[-7:]
    shown = run_table(run_dir)
    places = {column.key.removeprefix("suite:"): place for place, column in enumerate(shown.columns)}
    records = list(csv.DictReader((run_dir / "table.csv").open()))
    assert [record["label"] for record in records] == [row.label for row in shown.rows]
    for record, html_row in zip(records, page, strict=True):
        for key in ("ratio", "tokens", "ocr", "average", "questions", "coverage", "latency", "kept"):
            assert float(record[key]) == numbers(html_row[places[key]])[0]
        for key in ("baseline", "pair"):
            found = [float(record[name]) for name in (key, f"{key}_low", f"{key}_high") if record[name]]
            assert found == numbers(html_row[places[key]])
    assert records[1]["baseline_mark"] == "**"


def test_columns_that_are_the_same_in_all_rows_move_to_the_caption(tmp_path: Path) -> None:
    made = table(tmp_path, make_records(CELLS[:6], per_task=12))
    assert "ratio" not in [column.key for column in made.columns]
    assert "ratio 1/4" in made.caption[-1]
    assert "no pruning" in made.caption[-1]


def test_the_table_says_which_methods_were_never_trained(tmp_path: Path) -> None:
    made = table(tmp_path, make_records((FakeCell("mlp", 1), FakeCell("mlp", 1, pruning="fastv")), per_task=12))
    assert "Training-free, so never retrained: FastV" in made.caption[-1]
    assert "checkpoint of the same configuration without it" in made.caption[-1]


def test_the_report_says_how_answers_were_generated_if_the_cells_do(tmp_path: Path, records: pd.DataFrame) -> None:
    def cells(*given: object) -> list[dict[str, object]]:
        return [cell.columns | {"decoding": stated} for cell, stated in zip(CELLS, given, strict=False)]

    assert not any("Decoding" in line for line in table(tmp_path / "old", records).caption)
    path = write_run(tmp_path / "new", records, cells=cells({}, {}, {"temperature": 0.7}, {"odd": "<b>"}))
    page = build(path).read_text(encoding="utf-8")
    for text in (page, (path / "table.md").read_text(encoding="utf-8")):
        assert text.count("Decoding: what the task asks for, else greedy and no penalties.") == 1
        assert "Decoding: temperature 0.7; for the rest what the task asks for" in text
    assert "<dd>What the task asks for, else greedy and no penalties.</dd>" in page
    assert "Decoding: odd &lt;b&gt;." in page


def test_a_mark_says_whether_the_interval_excludes_zero_and_survives_holm(run_dir: Path) -> None:
    entries = run_table(run_dir).column("baseline")
    for entry in entries[1:]:
        assert entry.estimate is not None
        assert bool(entry.mark) == entry.estimate.excludes_zero
    assert {entry.mark for entry in entries} == {"", "*", "**"}


def test_a_run_that_was_measured_alone_marks_no_time(run_dir: Path, report: str) -> None:
    for name in ("report.html", "table.csv", "table.md", "table.tex"):
        text = (run_dir / name).read_text(encoding="utf-8")
        assert re.findall(r"†|throughput|\\dag|latency_mark", text) == []


def test_a_row_measured_beside_other_workers_is_marked_in_all_formats(tmp_path: Path, records: pd.DataFrame) -> None:
    wholly, partly = records.label == "avg_pool 1/4", records.label == "pixel_shuffle 1/4"
    path = write_run(tmp_path / "run", records.assign(shared=wholly | (partly & (records.doc_id == 0))), images=False)
    page = build(path).read_text(encoding="utf-8")
    made = run_table(path)
    marked = ["avg_pool 1/4", "pixel_shuffle 1/4"]
    assert [row.label for row, entry in zip(made.rows, made.column("latency"), strict=True) if entry.mark] == marked
    note = next(column.note for column in made.columns if column.key == "latency")
    assert "throughput" in note
    assert sum("throughput" in line for line in made.caption) == 1
    place = [column.key for column in made.columns].index("latency")
    markdown = [line.split(" | ") for line in (path / "table.md").read_text("utf-8").splitlines() if line[:2] == "| "]
    latex = [line.split(" & ") for line in (path / "table.tex").read_text().splitlines() if line.endswith("\\\\")][-7:]
    lines = list(csv.DictReader((path / "table.csv").open(encoding="utf-8")))
    for number, (row, entry) in enumerate(zip(made.rows, made.column("latency"), strict=True)):
        mark = "†" * (row.label in marked)
        assert MainTable(page).rows[-7:][number][place].split() == [entry.text, *mark]
        assert markdown[2:][number][place].rstrip(" |") == entry.text + mark
        assert latex[number][place].removesuffix(" \\\\") == entry.text + r"$^{\dag{}}$" * bool(mark)
        assert (float(lines[number]["latency"]), lines[number]["latency_mark"]) == (float(entry.text), mark)
    assert "throughput" in (path / "table.md").read_text(encoding="utf-8")
    assert r"\dag{} measured while several workers" in (path / "table.tex").read_text()
    assert (path / "table.tex").read_text().isascii()
    assert render_terminal(made).isascii()


def test_only_what_counts_for_the_time_marks_it_and_a_time_that_is_the_same_everywhere_keeps_its_mark(
    tmp_path: Path, records: pd.DataFrame
) -> None:
    failed = table(tmp_path / "failed", records.assign(shared=records.failure != ""))
    assert {entry.mark for entry in failed.column("latency")} == {""}
    same = table(tmp_path / "same", records.assign(shared=True, latency_ms=12.0))
    assert "latency" not in [column.key for column in same.columns]
    assert "ms / question 12.0†" in same.caption[-1]
    assert any("throughput" in line for line in same.caption)
    half = table(tmp_path / "half", records.assign(shared=records.is_baseline, latency_ms=12.0))
    assert [entry.mark for entry in half.column("latency")] == ["†", *[""] * 6]


def test_a_cell_that_failed_entirely_is_a_row_with_its_reason(tmp_path: Path, records: pd.DataFrame) -> None:
    failed = FakeCell("ldpv2").columns | {"status": "failed", "failure": "out of memory"}
    made = table(tmp_path, records, cells=[failed])
    row = next(row for row in made.rows if row.label == "ldpv2 1/4")
    assert row.failure == "out of memory"
    assert {entry.text for entry in row.entries[3:] if entry.estimate} == set()
    assert any("gave no answers" in note for note in made.notes)
    assert "no answers: ldpv2 1/4: out of memory" in render_terminal(made)


def test_a_suite_without_answers_leaves_the_average_open_instead_of_averaging_the_rest(
    tmp_path: Path, records: pd.DataFrame
) -> None:
    made = table(tmp_path, records[(records.projector != "mlp") | (records.suite != "doc")])
    assert (made.column("suite:ocr")[0].text, made.column("average")[0].text) == ("95.0", "–")
    assert made.column("coverage")[0].warn


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda r: r.assign(is_baseline=False), "names no baseline"),
        (lambda r: r.assign(failure=r.failure.where(~r.is_baseline, "boom")), "baseline gave no answers"),
        (lambda r: r.assign(is_baseline=True), "fits several rows"),
    ],
)
def test_a_baseline_that_is_missing_empty_or_ambiguous_is_said(
    tmp_path: Path, records: pd.DataFrame, change: object, note: str
) -> None:
    assert any(note in text for text in table(tmp_path, change(records)).notes)  # type: ignore[operator]


def test_a_grid_that_is_not_done_says_how_much_is_missing(tmp_path: Path, records: pd.DataFrame) -> None:
    grid = "name: projectors\nseeds: [0]\nlimit: 120\ncells:\n" + "- {projector: mlp}\n" * 9
    notes = table(tmp_path, records, grid=grid).notes
    assert any("9 cells; 2 of them have not started" in note for note in notes)
    assert any("first 120 questions" in note for note in notes)


def test_a_run_of_one_question_or_of_none_is_a_table_without_intervals(tmp_path: Path, records: pd.DataFrame) -> None:
    made = table(tmp_path, records[(records.doc_id == 0) & records.is_baseline])
    assert made.column("average")[0].small == ""
    empty = write_run(tmp_path / "empty", records[:0], images=False, cells=[cell.columns for cell in CELLS])
    assert build(empty).exists()
    assert len(run_table(empty).rows) == 7


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "  =1", "\t=1"])
def test_csv_texts_are_never_formulas_and_numbers_stay_numbers(text: str) -> None:
    header, line = list(csv.reader(io.StringIO(to_csv(tiny(text)))))
    assert line[0].startswith("'")
    assert line[-1].startswith("'")
    assert line[header.index("average")] == "-1.5"


def test_markdown_and_latex_escape_what_they_would_read_as_their_own() -> None:
    hostile = "a|b *c* _d_ `e` <script> [x](y) \\ & % $ # { } ~ ^ \n − é 日"
    markdown, latex = to_markdown(tiny(hostile)), to_latex(tiny(hostile))
    assert all(line.count(" | ") == 1 for line in markdown.splitlines() if line.startswith("| "))
    assert "\\<script\\>" in markdown
    assert "\\|" in markdown
    assert latex.isascii()
    assert "\\textbackslash{} \\& \\% \\$ \\# \\{ \\} \\textasciitilde{} \\textasciicircum{}" in latex
    assert "[U+65E5]" in latex


def test_terminal_fits_is_ascii_and_drops_suites_before_the_average(run_dir: Path) -> None:
    wide, narrow = render_terminal(run_table(run_dir)), render_terminal(run_table(run_dir), 60)
    assert max(map(len, wide.splitlines()[:9])) <= 100
    assert max(map(len, narrow.splitlines()[:9])) <= 60
    assert "general" in wide
    assert "general" not in narrow
    assert "avg" in narrow
    assert wide.isascii()


def test_terminal_shows_no_escape_sequence_of_a_label() -> None:
    shown = render_terminal(tiny("\x1b[31mred\x1b]0;title\x07 \u202eevil"))
    assert "red" in shown
    assert shown.replace("\n", "").isprintable()
