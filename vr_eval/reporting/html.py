"""The page: one file without network access, whose policy lets in nothing but its own style, script and images.

Everything foreign (answers, questions, labels, file contents) is escaped by the template engine, or stands in a JSON
block that the script puts into the page as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vr_eval.reporting.columns import Column, row_name
from vr_eval.reporting.definition import Definition
from vr_eval.reporting.images import Album
from vr_eval.reporting.notation import signed, visible
from vr_eval.reporting.provenance import Sources
from vr_eval.reporting.samples import Choice, Sample
from vr_eval.reporting.scores import Scores
from vr_eval.reporting.svg import Drawing
from vr_eval.reporting.tables import Table

TEMPLATES = Path(__file__).parent / "templates"
STYLE = "style.css.j2"


@dataclass(frozen=True)
class Page:
    """What the page shows, top to bottom."""

    title: str
    question: str
    about: tuple[str, ...]
    answer: str
    facts: tuple[tuple[str, str], ...]
    table: Table
    figures: tuple[Drawing, ...]
    kinds: tuple[Table, ...]
    choices: tuple[Choice, ...]
    samples: str
    images: int
    sources: Sources
    definition: Definition


def render(page: Page) -> str:
    """The page as HTML."""
    environment = page_templates()
    environment.filters["signed"] = signed
    environment.filters["groupby_run"] = _runs
    style, script = (environment.get_template(name).render() for name in (STYLE, "script.js.j2"))
    frame = {**framed(style, script), "samples_json": Markup(page.samples)}
    return environment.get_template("report.html.j2").render(page=page, **frame)


def page_templates() -> Environment:
    """The templates of all pages: everything foreign is escaped, and a name that is not given is an error."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )


def framed(style: str, script: str = "") -> dict[str, str]:
    """What the head of a page holds: its style and script, if any, and a policy that allows just their bytes.

    They are files of this package, not data: they go in as they are.
    """
    scripts = f"script-src '{_digest(script)}'; " if script else ""
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; {scripts}base-uri 'none'; form-action 'none'"
    )
    return {"style": Markup(style), "script": Markup(script), "policy": policy}


def samples_json(samples: list[Sample], scores: Scores, definition: Definition, album: Album) -> str:
    """What the script shows of the samples, as JSON that can stand inside of a `<script>` element."""
    several_seeds = any(len(row.cells) > 1 for row in scores.configurations)
    listed = []
    for sample in samples:
        keys, missing = album.add(sample.task, sample.cluster)
        listed.append(
            {
                "suite": sample.suite,
                "task": visible(sample.task, 80),
                "doc": sample.doc_id,
                "kind": sample.kind,
                "question": sample.question,
                "target": sample.target,
                "images": keys,
                "missing": missing,
                "disagree": sample.disagree,
                "failed": sample.failed,
                "answers": [
                    {"row": a.row, "seed": a.seed, "text": a.text, "score": a.score, "failure": a.failure}
                    for a in sample.answers
                ],
            }
        )
    content = {
        "methods": [row_name(row, definition) for row in scores.configurations],
        "suites": {suite: visible(definition.suite(suite), 40) for suite in scores.suites},
        "asked": {s: sum(task.doc_ids.size for task in scores.tasks if task.suite == s) for s in scores.suites},
        "seeds": several_seeds,
        "images": album.uris,
        "samples": listed,
    }
    return _inline_json(content)


def _runs(columns: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    """Neighbouring columns of the same group."""
    return [(group, list(members)) for group, members in groupby(columns, key=lambda column: column.group)]


def _inline_json(content: Mapping[str, Any]) -> str:
    """JSON without the characters that could end a `<script>` element or open a comment."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
