"""Methods in a Python file of the user's own: executed where a grid or a caller names the file, and nowhere else.

The file's content is part of the identity of what its methods compute, so an edit is another method; no version has to
be raised. What holds a method that is not loaded, like a checkpoint, says which file it was and loads nothing.
"""

from __future__ import annotations

import dataclasses
import sys
import traceback
from pathlib import Path
from types import ModuleType

from vr_eval.errors import InputError, Problem
from vr_eval.methods.registry import METHODS, NONE
from vr_eval.methods.spec import MethodFile, MethodSpec, spec_fault

_LOADED: dict[str, tuple[MethodSpec, ...]] = {}
"""What files brought, by hash: one that was loaded is not executed again."""


def load_methods(path: str | Path) -> tuple[str, ...]:
    """Execute a method file and register its methods; their names.

    Raises:
        InputError: It cannot be read or executed, or brings no method that can be registered.
    """
    return load_method_file(read_method_file(Path(path)))


def read_method_file(path: Path) -> MethodFile:
    """The file as it is now; nothing in it is executed. Raises InputError where it cannot be read."""
    if path.suffix != ".py":
        raise InputError(Problem("a method file ends in .py", str(path)))
    try:
        return MethodFile(str(path.resolve()), path.read_bytes())
    except (OSError, RuntimeError, ValueError) as error:  # what is no path at all raises these too
        reason = getattr(error, "strerror", None) or error
        raise InputError(Problem(f"the method file cannot be read: {reason}", str(path))) from None


def load_method_file(file: MethodFile) -> tuple[str, ...]:
    """Register the methods of `file`, which is executed unless the same content was before; their names.

    A file that was edited since it was loaded replaces its own methods: what was made of them keeps its name only
    where it was computed before.

    Raises:
        InputError: Its code raises something, or brings no method that can be registered.
    """
    specs = _LOADED.get(file.hash) or _executed(file)
    for spec in specs:
        held = METHODS.get(spec.name)
        own = held is not None and held.file is not None and file.path == held.file.path
        if spec.name == NONE or (held is not None and held.file != file and not own):
            where = f" by {held.file.path}" if held is not None and held.file is not None else ""
            hint = "Give its MethodSpec another name."
            raise InputError(Problem(f"the name of its method {spec.name} is taken{where}", file.path, hint=hint))
    METHODS.update({spec.name: spec for spec in specs})
    _LOADED[file.hash] = specs
    return tuple(spec.name for spec in specs)


def describe(file: MethodFile) -> str:
    """One line that says what was executed."""
    names = [name for name, spec in METHODS.items() if spec.file == file]
    return f"method file {file.path} (sha256 {file.hash[:12]}): {', '.join(names)}"


def _executed(file: MethodFile) -> tuple[MethodSpec, ...]:
    """The methods of a file, by running it as a module of its own."""
    # Named by its content: two versions of a file are two modules, and no module of a package can be meant.
    module = ModuleType(f"vr_eval_method_file_{file.hash[:16]}")
    module.__file__ = file.path
    sys.modules[module.__name__] = module  # dataclasses look the names in their annotations up there
    try:
        exec(compile(file.content, file.path, "exec", dont_inherit=True), module.__dict__)
        return _specs(module, file)
    except InputError:
        del sys.modules[module.__name__]
        raise
    except (Exception, SystemExit) as error:  # a user's code: anything can go wrong in it
        del sys.modules[module.__name__]
        message = f"the method file cannot be loaded: {type(error).__name__}: {error}"
        raise InputError(Problem(message, file.path, _line(error, file))) from error


def _specs(module: ModuleType, file: MethodFile) -> tuple[MethodSpec, ...]:
    """What stands in an executed file as a `MethodSpec` of its own, checked."""
    # Others may be imported there to build on.
    held = {id(value): value for value in vars(module).values() if isinstance(value, MethodSpec)}.values()
    specs = [spec for spec in held if spec.module == module.__name__]
    if not specs:
        hint = "SPEC = MethodSpec(name=.., module=__name__, cls=..): the class stands in the same file."
        message = "the method file holds no MethodSpec" + (" with module=__name__" if held else "")
        raise InputError(Problem(message, file.path, hint=hint))
    names = [spec.name for spec in specs]
    for spec in specs:
        fault = spec_fault(spec)
        if fault is None and names.count(spec.name) > 1:
            fault = "two of the file's methods have this name"
        if fault is None and not isinstance(getattr(module, spec.cls, None), type):
            fault = f"the file has no class {spec.cls}"
        if fault is not None:
            raise InputError(Problem(fault, file.path, key=str(spec.name)))
    return tuple(dataclasses.replace(spec, file=file) for spec in specs)


def _line(error: BaseException, file: MethodFile) -> int | None:
    """The line of the file that an exception comes from."""
    if isinstance(error, SyntaxError) and error.filename == file.path:
        return error.lineno
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file.path]
    return frames[-1] if frames else None
