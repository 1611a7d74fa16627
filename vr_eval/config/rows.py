"""Rows and axes: which keys they take, and the check of one value (its meaning together with others comes later)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from vr_eval.catalog.backbones import BackboneSpec
from vr_eval.catalog.fields import allowed_of, checked
from vr_eval.config.cell import SEAMS
from vr_eval.config.document import Node, Problems
from vr_eval.config.schema import ROW_KEYS, Row
from vr_eval.errors import nearest
from vr_eval.methods.options import Seam, square_ratios
from vr_eval.methods.registry import METHODS, NONE, of_seam

_REFUSED = object()


def read_axes(node: Node, spec: BackboneSpec | None, problems: Problems) -> dict[str, tuple[Node, ...]]:
    """Axes of ``grid``: key to the nodes of its values, each holding a checked value; bad ones are left out."""
    axes: dict[str, tuple[Node, ...]] = {}
    if not isinstance(node.value, dict):
        problems.add(node, "grid", "must be a mapping of axes", given=node.plain, allowed=_row_keys())
        return axes
    if not node.entries:
        problems.add(node, "grid", "the grid is empty", allowed=f"axes: {_row_keys()}")
    for key, axis in node.entries.items():
        place = f"grid.{key}"
        check = _checker(key, spec)
        if check is None:
            _unknown_key(axis, place, key, problems)
            continue
        if isinstance(axis.value, list) and not axis.value:
            problems.add(axis, place, "this axis has no values")
            continue
        values: list[Node] = []
        for item in axis.items:
            value = check(item, place, problems)
            if value is _REFUSED:
                continue
            if any(value == other.value for other in values):
                problems.add(item, place, "this value is given twice", given=item.plain)
                continue
            values.append(dataclasses.replace(item, value=value))
        axes[key] = tuple(values)
    return axes


def read_rows(node: Node, key: str, spec: BackboneSpec | None, problems: Problems) -> tuple[Row, ...]:
    """A list of rows (``cells`` or ``exclude``)."""
    if not isinstance(node.value, list) or not all(isinstance(item.value, dict) for item in node.value):
        hint = f"For example: {key}: [{{projector: tokenpacker, ratio: 4}}]"
        problems.add(node, key, "must be a list of mappings", given=node.plain, hint=hint)
        return ()
    return tuple(read_row(item, f"{key}[{i}]", spec, problems) for i, item in enumerate(node.value))


def read_row(node: Node, place: str, spec: BackboneSpec | None, problems: Problems) -> Row:
    """One row; values that do not fit are reported and left out."""
    values: dict[str, object] = {}
    nodes: dict[str, Node] = {}
    if not isinstance(node.value, dict):
        problems.add(node, place, "must be a mapping", given=node.plain, allowed=_row_keys())
    elif not node.entries:
        problems.add(node, place, "the row is empty", allowed=_row_keys())
    for key, item in node.entries.items():
        check = _checker(key, spec)
        if check is None:
            _unknown_key(item, f"{place}.{key}", key, problems)
            continue
        value = check(item, f"{place}.{key}", problems)
        if value is not _REFUSED:
            values[key], nodes[key] = value, item
    return Row(values, nodes, node)


def read_options(node: Node, problems: Problems) -> dict[str, Row]:
    """Top-level ``options``: method to a row of its options (keys without the method's name)."""
    found: dict[str, Row] = {}
    if not isinstance(node.value, dict):
        problems.add(node, "options", "must map methods to their options", given=node.plain, allowed=_listed(METHODS))
    for method, block in node.entries.items():
        place = f"options.{method}"
        if method not in METHODS:
            problems.add(
                block, place, "unknown method", given=method, allowed=_listed(METHODS), nearest=nearest(method, METHODS)
            )
            continue
        if not isinstance(block.value, dict):
            problems.add(block, place, "must be a mapping of options", given=block.plain, allowed=_options_of(method))
            continue
        values: dict[str, object] = {}
        for name, item in block.entries.items():
            check = _checker(f"{method}.{name}", None)
            if check is None:
                _unknown_key(item, f"{place}.{name}", f"{method}.{name}", problems)
                continue
            value = check(item, f"{place}.{name}", problems)
            if value is not _REFUSED:
                values[name] = value
        found[method] = Row(values, block.entries, block)
    return found


_Check = Callable[[Node, str, Problems], object]


def _checker(key: str, spec: BackboneSpec | None) -> _Check | None:
    """The check of a row's key, or ``None`` if there is no such key."""
    if key in SEAMS:
        return lambda node, place, problems: _method(node, place, key, problems)  # type: ignore[arg-type]
    if key == "ratio":
        return lambda node, place, problems: _ratio(node, place, spec, problems)
    method, _, option = key.partition(".")
    if method in METHODS and option in {field.name for field in dataclasses.fields(METHODS[method].options)}:
        return lambda node, place, problems: _option(node, place, method, option, problems)
    return None


def _method(node: Node, place: str, seam: Seam, problems: Problems) -> object:
    names = of_seam(seam) if seam == "projector" else (NONE, *of_seam(seam))
    if node.value in names:
        return node.value
    hint = None
    if node.value is None or node.value is False:
        hint = f"Write the word {NONE}." if NONE in names else None
    elif isinstance(node.value, str) and node.value in METHODS:
        hint = f"Write {METHODS[node.value].seam}: {node.value}"
    close = nearest(node.value, names) if isinstance(node.value, str) else None
    problems.add(node, place, f"unknown {seam}", given=node.plain, allowed=", ".join(names), nearest=close, hint=hint)
    return _REFUSED


def _ratio(node: Node, place: str, spec: BackboneSpec | None, problems: Problems) -> object:
    value = node.value
    fitting = square_ratios(spec.grid) if spec else ()
    allowed = _listed(map(str, fitting)) if fitting else "a square number: 1, 4, 9, ..."
    if type(value) is not int:
        hint = "Write 4 for 1/4 of the vision tokens." if isinstance(value, str | float) else None
        problems.add(node, place, "must be a whole number", given=node.plain, allowed=allowed, hint=hint)
        return _REFUSED
    if value < 1:
        problems.add(node, place, "must be at least 1", given=value, allowed=allowed)
        return _REFUSED
    if spec and value not in fitting:
        message = f"a ratio of 1/{value} does not divide the {spec.grid}x{spec.grid} patch grid of {spec.name}"
        problems.add(node, place, message, given=value, allowed=allowed)
        return _REFUSED
    return value


def _option(node: Node, place: str, method: str, option: str, problems: Problems) -> object:
    owner = METHODS[method].options
    try:
        return checked(owner, option, node.plain)
    except ValueError as error:
        allowed = str(error)
        close = nearest(node.value, allowed.split(", ")) if isinstance(node.value, str) else None
        hint = None
        if place.startswith("grid.") and allowed_of(owner, option).startswith("a list"):
            hint = "An axis is a list of values, so here a list of lists: [[2, 3], [4]]."
        problems.add(
            node, place, "this value does not fit", given=node.plain, allowed=allowed, nearest=close, hint=hint
        )
        return _REFUSED


def _unknown_key(node: Node, place: str, key: str, problems: Problems) -> None:
    method, dot, option = key.partition(".")
    if dot and method in METHODS:
        names = [field.name for field in dataclasses.fields(METHODS[method].options)]
        problems.add(
            node,
            place,
            f"{method} has no option {option}",
            allowed=_options_of(method),
            nearest=nearest(option, names),
        )
        return
    names = [name for name in ROW_KEYS if name != "METHOD.OPTION"]
    names += [f"{name}.{field.name}" for name, spec in METHODS.items() for field in dataclasses.fields(spec.options)]
    hint = "suites, tasks and seeds stand at the top level, for all cells." if key in _TOP_LEVEL else None
    problems.add(node, place, "unknown key", given=key, allowed=_row_keys(), nearest=nearest(key, names), hint=hint)


_TOP_LEVEL = ("suite", "suites", "task", "tasks", "seed", "seeds", "backbone")


def _row_keys() -> str:
    return ", ".join(ROW_KEYS)


def _options_of(method: str) -> str:
    return ", ".join(field.name for field in dataclasses.fields(METHODS[method].options))


def _listed(names: object) -> str:
    return ", ".join(names)  # type: ignore[arg-type]
