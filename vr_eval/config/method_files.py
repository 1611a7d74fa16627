"""The key ``methods`` of a grid file: Python files of the user's own, executed because they stand there."""

from __future__ import annotations

from pathlib import Path

from vr_eval.config.document import NO_PATH, Node, Problems
from vr_eval.errors import InputError
from vr_eval.methods.method_file import load_method_file, read_method_file
from vr_eval.methods.spec import MethodFile


def read_method_files(node: Node | None, problems: Problems) -> tuple[MethodFile, ...]:
    """The files that ``node`` names, each once, their methods registered; what cannot be loaded is reported.

    A path is relative to the file that names it, on the command line to the working directory, and never looked for
    elsewhere: what stands there is executed.
    """
    files: dict[MethodFile, None] = {}
    for item in node.items if node is not None else ():
        if not isinstance(item.value, str):
            problems.add(item, "methods", "must be Python files", given=item.plain)
            continue
        try:
            file = read_method_file(Path(item.file).parent / Path(item.value).expanduser())
            load_method_file(file)
            files[file] = None
        except InputError as error:
            for problem in error.problems:
                place = ":".join(str(part) for part in (problem.file, problem.line) if part is not None)
                message = ": ".join(part for part in (place, problem.key, problem.message) if part)
                problems.add(item, "methods", message, given=item.value, hint=problem.hint)
        except NO_PATH as error:
            problems.add(item, "methods", f"this cannot be a path: {error}", given=item.value)
    return tuple(files)
