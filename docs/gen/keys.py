"""Keys of grid and probe files, and the command line, as the program documents them itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator

from gen.markdown import block, code, table
from vr_eval.cli.arguments import parser
from vr_eval.config import schema
from vr_eval.probes import options as probes

_WIDE = 100_000
"""So wide that every key stands on one line, its example on the next."""


def grid_keys() -> str:
    """Tables of every key of a grid file."""
    return _tables(schema.document_keys)


def probe_keys() -> str:
    """A table of every key of a probe file."""
    return _tables(probes.document_keys)


def _tables(document: Callable[[int], str]) -> str:
    parts: list[str] = []
    rows: list[list[str]] = []
    for line in [*document(_WIDE).splitlines(), "end:"]:
        if line and not line.startswith(" "):  # "Keys of recipe:"
            if rows:
                parts.append(table(["key", "what it is", "default", "example"], rows))
            rows = []
            parts.append(f"## {line.split(' (')[0].rstrip(':')}")
        elif line.startswith("   "):
            rows[-1][3] = code(line.strip())
        elif line.strip():
            rows.append([*_entry(line.strip()), ""])
    return "\n\n".join(parts[:-1])


def _entry(line: str) -> list[str]:
    """Key, meaning and default of a line such as ``seeds  every configuration .. (default: [0])``."""
    name, _, text = line.partition(" ")
    text, found, default = text.strip().rpartition(" (default: ")
    if not found:
        text, default = default.removesuffix(" (must be given)"), "must be given)"
    return [code(name), text, default.removesuffix(")")]


def commands() -> str:
    """The help of every command, without the keys, which have pages of their own."""
    os.environ["COLUMNS"] = "100"  # argparse wraps at the terminal's width, and the pages shall not depend on it
    return "\n\n".join(f"## {name}\n\n{block(text)}" for name, text in _helps(parser()))


def _helps(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    yield f"`{parser.prog}`", argparse.ArgumentParser.format_help(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _helps(child)
