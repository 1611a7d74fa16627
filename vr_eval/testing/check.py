"""`check_method`: every check of this package on one method, with an error that says which one failed and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vr_eval.methods.registry import METHODS
from vr_eval.methods.spec import MethodSpec
from vr_eval.testing.alone import ALONE
from vr_eval.testing.cases import cases_of
from vr_eval.testing.seams import SEAMS
from vr_eval.testing.tiles import TILES


def check_method(method: str | MethodSpec, **options: Any) -> None:
    """Whether a method keeps what this project promises of every method, on tiny random models: seconds on a CPU.

    It is checked by itself, alone in a model (at strides of 2 and 3, where it has them), with the methods of other
    seams, and on images in tiles: batches, padding, caches, beams, several images, bfloat16, gradients, saving and
    loading, the inference version, options and identity.

    Args:
        method: Its name in the registry, or a `MethodSpec` that need not be registered.
        options: In place of its defaults.

    Raises:
        AssertionError: With the check that failed, the model that it failed on, and why.
    """
    with _registered(method) as spec, torch.random.fork_rng(devices=[]):
        for check in ALONE:
            _run(check, spec.name, spec, options)
        try:
            cases = cases_of(spec.name, options)
        except ValueError as error:
            raise AssertionError(str(error)) from error
        for case in cases:
            model = case.model()
            for model_check in SEAMS:
                _run(model_check, str(case), model)
        tiled = cases[0].model(tiled=True)
        for tile_check in TILES:
            _run(tile_check, f"{cases[0]} in tiles", tiled)


@contextmanager
def _registered(method: str | MethodSpec) -> Iterator[MethodSpec]:
    """The method in the registry, until the end of the check if it was not there."""
    if isinstance(method, str):
        if method not in METHODS:
            raise AssertionError(f"no method is called {method}; there are {', '.join(METHODS)}")
        yield METHODS[method]
        return
    held = METHODS.get(method.name)
    if held not in (None, method):
        raise AssertionError(f"the name {method.name} is taken by another method")
    METHODS[method.name] = method
    try:
        yield method
    finally:
        if held is None:
            del METHODS[method.name]


def _run(check: Callable[..., None], subject: str, *arguments: Any) -> None:
    """One check; whatever it raises says what should have held."""
    torch.manual_seed(0)
    try:
        check(*arguments)
    except Exception as error:  # the method's own code may raise anything
        promise = (check.__doc__ or check.__name__).strip()
        why = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        raise AssertionError(f"{subject}: {check.__name__}: {promise}\n    {why}") from error
