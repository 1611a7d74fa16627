"""The main table as CSV, Markdown, LaTeX and for the terminal: the same rows, columns and numbers as in the page."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from vr_eval.errors import sanitize_terminal
from vr_eval.records.columns import FAILURE, IS_BASELINE, LABEL, RANDOM, WEIGHTS
from vr_eval.reporting.columns import SHARED_MARK, Column, Entry
from vr_eval.reporting.notation import MINUS, NOTHING, points
from vr_eval.reporting.tables import RANDOM_WEIGHTS, Row, Table

TERMINAL_WIDTH = 100
LONGEST_NAME = 40


def to_csv(table: Table) -> str:
    """One line per row; an estimate is three columns (value, `_low`, `_high`), and marks have one of their own."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    marked = {column.key for column in table.columns if any(entry.mark for entry in table.column(column.key))}
    estimated = {column.key for column in table.columns if any(entry.estimate for entry in table.column(column.key))}
    header = [LABEL, IS_BASELINE]
    for column in table.columns:
        key = column.key.removeprefix("suite:")
        header += [key, *([f"{key}_low", f"{key}_high"] if column.key in estimated else [])]
        header += [f"{key}_mark"] if column.key in marked else []
    random = [RANDOM] * table.random_weights
    writer.writerow([*map(_inert, header), FAILURE, *([WEIGHTS] * table.random_weights)])
    for row in table.rows:
        line = [_inert(row.label), str(int(row.is_baseline))]
        for column, entry in zip(table.columns, row.entries, strict=True):
            line.append(_number(entry) if column.numeric else _inert(_with_small(entry)))
            if column.key in estimated:
                line += _ends(entry)
            line += [entry.mark] if column.key in marked else []
        writer.writerow([*line, _inert(row.failure), *random])
    return buffer.getvalue()


def to_markdown(table: Table) -> str:
    """A heading, a pipe table and the notes."""
    head = [_markdown(_full_title(column)) for column in table.columns]
    lines = [f"# {_markdown(table.title)}", "", _pipes(head)]
    lines.append(_pipes(["---:" if column.numeric else "---" for column in table.columns]))
    for row in table.rows:
        cells = [
            _markdown(entry.text + entry.mark + (f" {_small(entry)}" if entry.small else "")) for entry in row.entries
        ]
        cells[0] += "".join(f" ({_markdown(extra)})" for extra in _extras(row))
        lines.append(_pipes(cells))
    lines += ["", _markdown(" ".join(table.caption))]
    lines += [f"\n> {_markdown(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    """A `table` environment for the packages booktabs and graphicx, ASCII only."""
    spec = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = ["% Needs \\usepackage{booktabs,graphicx}.", "\\begin{table}", "\\centering"]
    lines.append(f"\\resizebox{{\\linewidth}}{{!}}{{\\begin{{tabular}}{{{spec}}}")
    lines += ["\\toprule", *_latex_groups(table.columns)]
    lines += [_ampersands(_latex(column.title) for column in table.columns), "\\midrule"]
    for row in table.rows:
        cells = [_latex_entry(entry) for entry in row.entries]
        cells[0] += "".join(f" ({_latex(extra)})" for extra in _extras(row))
        lines.append(_ampersands(cells))
    lines += ["\\bottomrule", "\\end{tabular}}"]
    lines += [f"\\caption{{{_latex(' '.join((f'{table.title}.', *table.caption, *table.notes)))}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def render_terminal(table: Table, width: int = TERMINAL_WIDTH) -> str:
    """The table in at most ``width`` columns of plain ASCII: scores, differences, and coverage where it is not full.

    Rows go by the cells' labels. What does not fit is left out, single suites first and the average never.
    """
    names = [_ascii(row.label + " (baseline)" * row.is_baseline) for row in table.rows]
    suites = [column.key for column in table.columns if column.key.startswith("suite:")]
    partial = any(entry.warn for row in table.rows for entry in row.entries)
    wanted = {*suites, "average", "baseline", "pair", *(["coverage"] if partial else [])}
    columns = {column.key: _terminal_column(table, column) for column in table.columns if column.key in wanted}
    longest = min(max(map(len, names), default=0), LONGEST_NAME)
    for key in [*reversed(suites[1:]), *suites[:1] * ("average" in columns), "pair", "coverage", "baseline"]:
        if longest + _taken(columns) <= width:
            break
        columns.pop(key, None)
    room = max(width - _taken(columns), 12)
    names = [name if len(name) <= room else name[: room - 3] + "..." for name in names]
    left = max([6, *map(len, names)])
    lines = [f"{name:<{left}}" for name in ["", *names]]
    for column in columns.values():
        lines = [f"{line}  {text}" for line, text in zip(lines, column, strict=True)]
    lines.insert(1, "-" * len(lines[0]))
    lines += [_ascii(f"no answers: {row.label}: {row.failure}") for row in table.rows if row.failure]
    lines += [_LEGEND[key] for key in ("baseline", "pair") if key in columns]
    if any("*" in text for column in columns.values() for text in column):
        lines.append("*: its 95 % interval excludes zero; **: also after Holm's correction")
    lines += [RANDOM_WEIGHTS] * table.random_weights
    return "\n".join(line.rstrip() for line in lines)


def _terminal_column(table: Table, column: Column) -> list[str]:
    """Title and entries, all of one width."""
    entries = table.column(column.key)
    marked = any(entry.mark for entry in entries)
    title = _SHORT.get(column.key, column.key.removeprefix("suite:"))
    texts = [_ascii(title)] + [_ascii(entry.text) + (f" {entry.mark:<2}" if marked else "") for entry in entries]
    wide = max(map(len, texts))
    return [text.rjust(wide) for text in texts]


def _taken(columns: Mapping[str, list[str]]) -> int:
    return sum(len(lines[0]) + 2 for lines in columns.values())


def _extras(row: Row) -> list[str]:
    """What is said of a row beside its name."""
    return ["baseline"] * row.is_baseline + ([f"no answers: {row.failure}"] if row.failure else [])


def _small(entry: Entry) -> str:
    """The small text in a line with the large one: an interval in brackets, a margin as it is."""
    return entry.small if entry.small.startswith("±") else f"({entry.small})"


def _with_small(entry: Entry) -> str:
    return f"{entry.text} {_small(entry)}" if entry.small else entry.text


def _full_title(column: Column) -> str:
    return f"{column.group}: {column.title}" if column.group.startswith("Difference") else column.title


def _ascii(text: str) -> str:
    """Safe for any terminal: no escape sequences, and ASCII, since a terminal may know nothing else."""
    for character, plain in _PLAIN.items():
        text = text.replace(character, plain)
    return sanitize_terminal(text).replace("\n", " ").encode("ascii", "replace").decode("ascii")


def _number(entry: Entry) -> str:
    """A number for a program: what the page shows without its unit; what the page abbreviates, in full."""
    text = entry.text.replace(MINUS, "-").removeprefix("+").removesuffix(" %")
    if entry.order is None:
        return ""
    return text if re.fullmatch(r"-?\d+(\.\d+)?", text) else f"{entry.order:.12g}"


def _ends(entry: Entry) -> list[str]:
    if entry.estimate is None or not entry.estimate.bounded:
        return ["", ""]
    return [points(end).replace(MINUS, "-") for end in (entry.estimate.low, entry.estimate.high)]


def _inert(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) or text[:1] in ("\t", "\r") else text


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", text)
    return escaped.replace("\r", " ").replace("\n", " ")


def _latex_groups(columns: Sequence[Column]) -> list[str]:
    """The row of group titles with a rule under each; nothing if there are no groups."""
    if not any(column.group for column in columns):
        return []
    cells, rules, place = [], [], 1
    for group, members in groupby(columns, key=lambda column: column.group):
        count = len(list(members))
        cells.append(f"\\multicolumn{{{count}}}{{c}}{{{_latex(group)}}}")
        rules += [f"\\cmidrule(lr){{{place}-{place + count - 1}}}"] if group else []
        place += count
    return [_ampersands(cells), " ".join(rules)]


def _latex_entry(entry: Entry) -> str:
    text = _latex(entry.text) + (f"$^{{{_latex(entry.mark)}}}$" if entry.mark else "")
    return f"{text} {{\\scriptsize {_latex(_small(entry))}}}" if entry.small else text


def _ampersands(cells: Iterable[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _latex(text: str) -> str:
    """ASCII that LaTeX prints as ``text``; accents are dropped, and what has no ASCII form shows its code point."""
    out = []
    for character in unicodedata.normalize("NFC", text):
        plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        if character in _LATEX:
            out.append(_LATEX[character])
        elif character.isascii() and (character.isprintable() or character.isspace()):
            out.append(" " if character.isspace() else character)
        else:
            out.append(plain if plain.isalnum() else f"[U+{ord(character):04X}]")
    return "".join(out)


_SHORT = {"average": "avg", "baseline": "vs base", "pair": "vs none", "coverage": "answered"}
_LEGEND = {
    "baseline": "vs base: difference to the baseline's average, in points",
    "pair": "vs none: difference to the same configuration without refusion, in points",
}
_PLAIN = {MINUS: "-", NOTHING: "-", "±": "+-", "≥": ">=", "≤": "<=", "…": "..."}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    MINUS: "$-$",
    NOTHING: "--",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "…": r"\ldots{}",
    SHARED_MARK: r"\dag{}",
} | {character: f"\\{character}" for character in "&%$#_{}"}
