"""The command ``vr-eval``. Thin: it reads arguments, calls one function, and turns errors into messages.

Every import beyond the standard library waits until its command runs, so that ``--help`` is there at once and ``plan``
never loads torch. Exit codes: 0 done, 1 something failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from vr_eval.cli.arguments import parser
from vr_eval.errors import VrEvalError, sanitize_terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        options = parser().parse_args(arguments)
        code: int = options.command(options)
        # Here, and not at exit, a reader that has gone away can still be answered quietly.
        sys.stdout.flush()
        return code
    except VrEvalError as error:
        print(f"vr-eval: {sanitize_terminal(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nvr-eval: interrupted; the same command continues where this one stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        # A folder that cannot be written, wherever that showed; anything else is a bug.
        from vr_eval.places import FORBIDDEN, FULL, not_writable

        if error.errno not in FULL | FORBIDDEN or not isinstance(error.filename, str):
            raise
        print(f"vr-eval: {not_writable(error, error.filename).render()}", file=sys.stderr)
        return 2
