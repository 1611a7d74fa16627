"""The model card of a checkpoint: a pure function of its manifest and of its run; no figure is typed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vr_eval.methods.registry import METHODS, PACKAGES
from vr_eval.publish.chosen import Chosen
from vr_eval.reporting.compose import run_table
from vr_eval.reporting.provenance import machines
from vr_eval.reporting.tables import Table
from vr_eval.reporting.text import to_markdown

TEMPLATES = Path(__file__).parent / "templates"
_LONGEST = 200


def model_card(chosen: Chosen, repo: str, license: str) -> str:
    """README.md of a checkpoint that is published as `repo` under `license`, an identifier of the hub."""
    table = run_table(chosen.run.path) if chosen.run is not None else None
    environment = chosen.run.environment if chosen.run is not None else None
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # Markdown; what is foreign goes through `shown`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["shown"] = shown
    metadata = yaml.safe_dump(_metadata(chosen, repo, license, table), sort_keys=False, allow_unicode=True)
    return templates.get_template("card.md.j2").render(
        metadata=metadata,
        repo=repo,
        license=license,
        chosen=chosen,
        label=chosen.manifest.get("label", chosen.id),
        identity=dict(flat({k: v for k, v in _identity(chosen).items() if k not in ("methods", "recipe")})),
        methods=list(_methods(chosen)),
        recipe=dict(flat(_identity(chosen).get("recipe", chosen.manifest.get("recipe", {})))),
        losses=dict(flat(chosen.manifest.get("final_loss", {}))),
        table=to_markdown(table).partition("\n")[2].strip() if table is not None else "",
        run_ids=_run_ids(chosen),
        machines=machines(chosen.run) if chosen.run is not None else [],
        versions={k: v for k, v in environment.versions.items() if v} if environment is not None else {},
    )


def shown(value: object) -> str:
    """`value` in a line or a table of Markdown: no mark-up, no line break, and of a path on this machine its name."""
    text = str(value)
    if text.startswith(("/", "~")):
        text = Path(text).name
    text = " ".join(text.split())[:_LONGEST]
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return text


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings; what is null is left out."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else value


def _identity(chosen: Chosen) -> Mapping[str, Any]:
    found = chosen.manifest.get("identity", {})
    return found if isinstance(found, Mapping) else {}


def _methods(chosen: Chosen) -> Iterator[dict[str, Any]]:
    """The methods that it holds, as its identity names them, with their publications."""
    for seam, one in _identity(chosen).get("methods", {}).items():
        spec, name = METHODS.get(one["name"]), one["name"]
        yield {
            "seam": seam,
            "name": name,
            "version": one.get("version"),
            "options": ", ".join(f"{key}={value}" for key, value in flat(one.get("options", {}))),
            "source": spec.source if spec is not None else "",
            "link": spec.link if spec is not None else "",
            "package": PACKAGES.get(name, chosen.manifest.get("packages", {}).get(name, "")),
        }


def _run_ids(chosen: Chosen) -> list[str]:
    """The runs that the scores are from."""
    return [] if chosen.run is None else sorted(set(chosen.run.records["run_id"]) - {""})


def _metadata(chosen: Chosen, repo: str, license: str, table: Table | None) -> dict[str, Any]:
    """What the hub reads of a card: licence, base models, tags and scores."""
    methods = [one["name"] for one in _methods(chosen)]
    bases = [name.partition("@")[0] for name in chosen.sources]
    results = _results(chosen, table) if table is not None else []
    return {
        "license": license,
        "library_name": "vr-eval",
        "pipeline_tag": "image-text-to-text",
        "tags": ["vr-eval", *methods],
        **({"base_model": bases} if bases else {}),
        **({"model-index": [{"name": repo.partition("/")[2], "results": results}]} if results else {}),
    }


def _results(chosen: Chosen, table: Table) -> list[dict[str, Any]]:
    """The scores of its rows in points, suite by suite."""
    results = []
    rows = [row for row in table.rows if row.label in chosen.labels]
    for place, column in enumerate(table.columns):
        if column.key != "average" and not column.key.startswith("suite:"):
            continue
        scores = [(row.label, row.entries[place].estimate) for row in rows]
        metrics = [
            {"type": "score", "name": label, "value": round(score.value, 1)}
            for label, score in scores
            if score is not None
        ]
        if metrics:
            dataset = {"name": column.title, "type": column.key.replace(":", "-")}
            results.append({"task": {"type": "image-text-to-text"}, "dataset": dataset, "metrics": metrics})
    return results
