"""A page for every method of the registry: its fragment, then what the code says of options, costs and sources."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from gen.costs import BACKBONE, Cost, cost
from gen.markdown import code, si, table
from vr_eval.catalog.backbones import BACKBONES
from vr_eval.catalog.fields import allowed_of, info_of
from vr_eval.measure.question import PROMPT_TOKENS
from vr_eval.methods.registry import METHODS, PACKAGES, projector_options
from vr_eval.methods.spec import MethodSpec

FRAGMENTS = Path(__file__).resolve().parents[1] / "methods"
"""NAME.md: idea, equation and shapes, written by hand; a method without one has a page all the same."""
RATIO = 4
"""The ratio that costs are stated at: 1/4, the paper's."""
PLAIN: dict[str, Any] = {"projector": "mlp"}
POOLED: dict[str, Any] = {"projector": "avg_pool", "ratio": RATIO}


def pages() -> dict[str, str]:
    """File name to page, for the overview and every method."""
    return {"index.md": overview()} | {f"{name}.md": page(spec) for name, spec in METHODS.items()}


def row_of(spec: MethodSpec) -> dict[str, Any]:
    """The row of a grid file that stands for the method: alone where it can be, else on the plainest model."""
    if spec.seam == "projector":
        fitting = projector_options(spec.name).ratios(BACKBONES[BACKBONE].grid)
        return {"projector": spec.name} | ({"ratio": RATIO} if RATIO in fitting else {})
    if spec.seam == "refusion":
        return POOLED | {"refusion": spec.name}
    row = PLAIN | {spec.seam: spec.name}
    share = any(field.name == "keep_ratio" for field in dataclasses.fields(spec.options))
    return row | ({f"{spec.name}.keep_ratio": 1 / RATIO} if share else {})


def overview() -> str:
    """All methods with what they cost."""
    whole = cost(**PLAIN)
    rows = []
    for spec in METHODS.values():
        own = cost(**row_of(spec))
        name = f"[{spec.name}]({spec.name}.md)"
        rows.append([name, spec.seam, spec.summary, *_numbers(own, whole), spec.source])
    head = ["method", "seam", "what it does", *_HEAD, "source"]
    return "\n\n".join(
        [
            "# Methods",
            "Every method that a grid file can name. A method fills one seam of the model: what the tower is given "
            "(image), how patches become vision tokens (projector), what looks at the features again between decoder "
            "layers (refusion), or what leaves the decoder fewer tokens without training (pruning). `vr-eval list "
            "methods` prints the same from the same source.",
            _stated(),
            table(head, rows, numbers=(3, 4, 5, 6)),
        ]
    )


def page(spec: MethodSpec) -> str:
    """The page of one method."""
    fragment = FRAGMENTS / f"{spec.name}.md"
    parts = [
        f"# {spec.name}",
        f"{spec.summary[0].upper()}{spec.summary[1:]}.",
        f"Seam: **{spec.seam}**. Source: {_source(spec)}. Version {spec.version}"
        + (f", of the package `{PACKAGES[spec.name]}`." if spec.name in PACKAGES else "."),
        fragment.read_text(encoding="utf-8").strip() if fragment.is_file() else "",
        "## Options",
        _options(spec),
        "## Costs",
        _stated(),
        _costs(spec),
        _tokens(spec),
        "## What comes from where",
        "\n".join(f"- **{source}**: {text}" for source, text in spec.details),
    ]
    return "\n\n".join(part for part in parts if part)


def _source(spec: MethodSpec) -> str:
    return f"[{spec.source}]({spec.link})" if spec.link else spec.source


def _options(spec: MethodSpec) -> str:
    """Every option with its default, also as it is on the stated backbone."""
    fields = dataclasses.fields(spec.options)
    if not fields:
        return "None: there is nothing to choose."
    defaults = spec.options()
    resolved = defaults.resolve(BACKBONES[BACKBONE])
    rows = []
    for field in fields:
        info = info_of(field)
        here = _plain(getattr(resolved, field.name))
        default = f"{info.default_note}; on `{BACKBONE}`: {code(here)}" if info.default_note else code(here)
        rows.append(
            [code(f"{spec.name}.{field.name}"), info.help, allowed_of(spec.options, field.name), default, info.source]
        )
    return table(["option", "what it does", "takes", "default", "default is from"], rows)


_HEAD = ["vision tokens", "parameters", "GFLOPs of a prefill", "of uncompressed"]


def _stated() -> str:
    return (
        f"Costs at the shapes of `{BACKBONE}`, computed by the model's own code: vision tokens that enter the decoder, "
        f"parameters of projector and refusion together, and operations of one prefill (one image, {PROMPT_TOKENS} "
        "text tokens, from pixels to the first answer token; a multiply-add is two). Options have their defaults, but "
        f"a share to keep is 1/{RATIO}."
    )


def _costs(spec: MethodSpec) -> str:
    """The method beside what it is compared with."""
    whole, own = cost(**PLAIN), cost(**row_of(spec))
    beside = [cost(**POOLED)] if spec.seam == "refusion" else []
    shown = {one.label: one for one in (whole, *beside, own)}
    rows = [[code(label), *_numbers(one, whole)] for label, one in shown.items()]
    return table(["configuration", *_HEAD], rows, numbers=(1, 2, 3, 4))


def _numbers(one: Cost, whole: Cost) -> list[str]:
    share = f"{100 * one.gflops / whole.gflops:.1f} %"
    return [f"{one.vision_tokens:,}", si(one.parameters), f"{one.gflops:,.0f}", share]


def _tokens(spec: MethodSpec) -> str:
    """Vision tokens of a projector at every ratio that it can have on the stated backbone."""
    if spec.seam != "projector":
        return ""
    options, grid = projector_options(spec.name), BACKBONES[BACKBONE].grid
    counts = (f"{'1/' if ratio > 1 else ''}{ratio}: {options().tokens(grid, ratio)}" for ratio in options.ratios(grid))
    return f"Vision tokens at every ratio there: {', '.join(counts)}."


def _plain(value: object) -> str:
    """`value` as YAML writes it."""
    if isinstance(value, tuple):
        return str(list(value))
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
