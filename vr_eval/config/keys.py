"""Keys of a mapping in a grid file that a dataclass of described fields stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from vr_eval.catalog.fields import checked
from vr_eval.config.document import Node, Problems
from vr_eval.errors import nearest


def read_keys(owner: type, node: Node, place: str, problems: Problems, others: Sequence[str] = ()) -> dict[str, Any]:
    """The values that ``node`` gives to fields of the dataclass ``owner``; what does not fit is reported and left out.

    Args:
        owner: Every field is a key.
        node: The mapping.
        place: Its key, for messages; empty for the whole document.
        problems: Where to report.
        others: Keys that it may have too, fields or not; the caller reads them.
    """
    names = list(dict.fromkeys((*others, *(field.name for field in dataclasses.fields(owner)))))
    if not isinstance(node.value, dict):
        problems.add(node, place, "must be a mapping", given=node.plain, allowed=", ".join(names))
    values: dict[str, Any] = {}
    for name, item in node.entries.items():
        key = f"{place}.{name}" if place else name
        if name not in names:
            problems.add(item, key, "unknown key", allowed=", ".join(names), nearest=nearest(name, names))
        elif name not in others:
            try:
                values[name] = checked(owner, name, item.plain)
            except ValueError as error:
                allowed = str(error)
                close = nearest(item.value, allowed.split(", ")) if isinstance(item.value, str) else None
                problems.add(item, key, "this value does not fit", given=item.plain, allowed=allowed, nearest=close)
    return values
