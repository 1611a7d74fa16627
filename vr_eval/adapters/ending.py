"""How our model ends lmms-eval's own command when it cannot go on.

That command catches every `Exception`, prints a traceback and ends with exit code 0, in one process and in several.
`SystemExit` is none, and gets through.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vr_eval.errors import InputError, Problem, VrEvalError, nearest, sanitize_terminal


@contextmanager
def loud_ending() -> Iterator[None]:
    """Ends the process where something fails: 2 for bad input and 1 for the rest, as `vr-eval` itself does.

    Raises:
        SystemExit: after the message, or the traceback of what is a bug.
    """
    try:
        yield
    except VrEvalError as error:
        print(f"vr-eval: {sanitize_terminal(str(error))}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from error
    except Exception as error:
        traceback.print_exc()
        raise SystemExit(1) from error


def check_arguments(made: Callable[..., Any], given: Mapping[str, Any], others: Sequence[str] = ()) -> None:
    """Whether `made` can be called with these arguments; `others`: names that it takes beside those of its signature.

    Raises:
        InputError: with every name that it does not take, and every one that it needs.
    """
    own = {name: one for name, one in inspect.signature(made).parameters.items() if one.kind is not one.VAR_KEYWORD}
    taken = [*own, *others]
    unknown = [name for name in given if name not in taken]
    lacking = [name for name, one in own.items() if one.default is one.empty and name not in given]
    allowed = ", ".join(taken)
    problems = [
        Problem("unknown argument", "--model_args", key=name, allowed=allowed, nearest=nearest(name, taken))
        for name in unknown
    ]
    problems += [Problem("must be given", "--model_args", key=name) for name in lacking]
    if problems:
        raise InputError(problems)
