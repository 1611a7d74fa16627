"""What mkdocs asks while it builds the site: pages that are generated, and expressions within those that are written.

A page of docs/pages/ may hold Jinja expressions with the names of `NAMES`. Reports are copied as they are.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import Any

from jinja2 import Environment, StrictUndefined
from mkdocs.structure.files import File, Files

from gen import keys, methods, results
from gen.backbones import backbones_table, tasks_text
from gen.markdown import block
from gen.results import DEMO, ROOT
from vr_eval.methods.registry import METHODS

LOG = logging.getLogger("mkdocs.plugins.vr_eval")
GRIDS = ("projectors", "refusion", "baselines", "resolution", "probe_tiny_imagenet")
_OUTSIDE = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//""")


def included(name: str) -> str:
    """A text file of the repository, from its second line on: the page has a title of its own."""
    return (ROOT / name).read_text(encoding="utf-8").partition("\n")[2].strip()


def python_file(name: str) -> str:
    """A Python file of the repository as a block of code."""
    return block((ROOT / name).read_text(encoding="utf-8"), "python")


NAMES: dict[str, Any] = {
    "backbones_table": backbones_table,
    "tasks_text": tasks_text,
    "grid_keys": keys.grid_keys,
    "probe_keys": keys.probe_keys,
    "commands": keys.commands,
    "included": included,
    "python_file": python_file,
    "results": results,
}


@cache
def _environment() -> Environment:
    return Environment(undefined=StrictUndefined, keep_trailing_newline=True)


def on_config(config: Any) -> Any:
    """The methods of the registry, in its order, under their heading."""
    for entry in config.nav:
        if "Methods" in entry:
            entry["Methods"] = ["methods/index.md", *({name: f"methods/{name}.md"} for name in METHODS)]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Generated pages, the colours of figures, and the reports."""
    for name, text in methods.pages().items():
        files.append(File.generated(config, f"methods/{name}", content=text))
    files.append(File.generated(config, "figures.css", content=results.style_sheet()))
    for grid in GRIDS:
        files.append(File.generated(config, f"reports/{grid}.html", abs_src_path=str(DEMO / grid / "report.html")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The page with its expressions filled in."""
    if page.file.generated_by is not None:
        return markdown
    return _environment().from_string(markdown).render(NAMES)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The site must work without network: a page that would load something from elsewhere is a warning."""
    found = _OUTSIDE.search(output)
    if found:
        LOG.warning("%s loads something from another host: %s", page.file.src_uri, found.group(0))
    return output
