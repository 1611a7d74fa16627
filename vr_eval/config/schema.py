"""The keys of a grid file. The check, the defaults and the documentation of a key are one entry here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vr_eval.catalog.fields import FieldInfo, described, info_of
from vr_eval.catalog.frozen import FrozenDict
from vr_eval.catalog.recipe import STAGES, Recipe
from vr_eval.catalog.tiling import TILINGS, Tiling
from vr_eval.config.backbone_keys import FROM, SCHEME, TILING, DescribedBackbone
from vr_eval.config.decoding import Decoding
from vr_eval.config.document import Node
from vr_eval.config.key_text import REQUIRED, default_of, fields_text, key_text
from vr_eval.methods.spec import MethodFile

MAX_CELLS = 2_000
"""Cells of one grid, seeds included: more is a typing mistake, not a study."""

MAX_EXCLUDED = 200
"""Rows of ``exclude``: each is compared with every combination."""

MAX_SEED = 2**32 - 1
"""Largest seed that numpy takes."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NAME_ALLOWED = "letters, digits, dot, dash and underscore; at most 64, the first a letter or digit"


@dataclass(frozen=True)
class Row:
    """A row of ``cells``, ``exclude`` or ``baseline``: checked values by key, and where each was written."""

    values: Mapping[str, object]
    nodes: Mapping[str, Node]
    node: Node


@dataclass(frozen=True)
class GridFile:
    """A grid file as it was written, every value checked by itself."""

    name: str = described("", "names the run directory, runs/NAME", example="name: projectors", default_note=REQUIRED)
    backbone: str = described(
        "",
        "vision tower and decoder: a name, or a mapping that describes one of your own (its keys are below)",
        example="backbone: micro",
        default_note=REQUIRED,
    )
    seeds: tuple[int, ...] = described(
        (0,), "every configuration runs once per seed", example="seeds: [0, 1]", minimum=0, maximum=MAX_SEED
    )
    suites: tuple[str, ...] | None = described(
        None, "suites of the backbone; or give tasks", example="suites: [ocr, doc]", default_note="all of them"
    )
    tasks: tuple[str, ...] | None = described(
        None, "single tasks, in place of suites", example="tasks: [vr_micro_ocr]", default_note="those of the suites"
    )
    tasks_path: tuple[str, ...] = described(
        (),
        "folders with tasks of your own, as YAML files of lmms-eval and the Python beside them, which a run executes; "
        "relative to this file",
        example="tasks_path: [.]",
        default_note="none",
    )
    methods: tuple[MethodFile, ...] = described(
        (),
        "Python files with methods of your own, which every command that is given this file executes; relative to this "
        "file. A file's content is part of the identity of what its methods compute",
        example="methods: [./my_method.py]",
        default_note="none",
    )
    grid: Mapping[str, tuple[Node, ...]] = described(
        FrozenDict(),
        "axes, each a list of values: every combination is a configuration. An option axis (METHOD.OPTION) applies to "
        "the configurations that use the method",
        example="grid: {projector: [avg_pool, tokenpacker], ratio: [4]}",
        default_note="no axes",
    )
    cells: tuple[Row, ...] = described(
        (), "single configurations beside the axes", example="cells: [{projector: mlp}]", default_note="none"
    )
    exclude: tuple[Row, ...] = described(
        (),
        "combinations of the axes to leave out: all that agree with every key of a row",
        example="exclude: [{projector: avg_pool, ratio: 9}]",
        default_note="none",
    )
    baseline: Row | None = described(  # noqa: RUF009 - a field, like all the others
        None,
        "the configuration that differences are taken to: the one that agrees with every key given",
        example="baseline: {projector: mlp}",
        default_note="no differences",
    )
    recipe: Mapping[str, Any] = described(
        FrozenDict(),
        "how cells are trained; each value is part of a cell's identity",
        example="recipe: {stage2: {steps: 50}}",
        default_note="the backbone's",
    )
    options: Mapping[str, Row] = described(
        FrozenDict(),
        "options of a method wherever it is used (a cell or an axis may say otherwise)",
        example="options: {vision_remember: {halo: 1}}",
        default_note="the method's",
    )
    random_weights: bool = described(
        False,
        "true: weights are drawn from a seed and nothing is fetched or trained, for shapes and speed alone; such "
        "results are marked and never meet real ones",
        example="random_weights: true",
    )
    decoding: Decoding = described(  # noqa: RUF009 - a field, like all the others
        Decoding(),
        "how answers are generated, for every cell alike and whatever a checkpoint's files say (keys below)",
        example="decoding: {repetition_penalty: 1.1}",
        default_note="what a task asks for, else greedy and no penalties",
    )
    limit: int | None = described(
        None, "first questions of each task only", example="limit: 50", minimum=1, default_note="all"
    )
    batch_size: int = described(
        32, "questions answered at once; changes speed, not answers", example="batch_size: 8", minimum=1, maximum=65_536
    )


ROW_KEYS: Mapping[str, FieldInfo] = FrozenDict(
    {
        "projector": FieldInfo("how patches become vision tokens", default_note=REQUIRED),
        "ratio": FieldInfo(
            "compression: 4 keeps 1/4 of the vision tokens",
            example="ratio: 4",
            default_note="1 for mlp; the others need one",
        ),
        "refusion": FieldInfo("what looks at the features again inside the decoder", default_note="none"),
        "pruning": FieldInfo("what drops vision tokens inside the decoder, without training", default_note="none"),
        "image": FieldInfo("what the vision tower is given in place of the whole image", default_note="none"),
        "METHOD.OPTION": FieldInfo(
            "an option of a method, see `vr-eval list methods`",
            example="vision_remember.scope: global",
            default_note="the method's",
        ),
    }
)
"""Keys of ``grid`` (with lists of values) and of the rows of ``cells``, ``exclude`` and ``baseline``."""


_FROM = FieldInfo("a file of these keys, or the name of one that comes with the project; keys beside it win over it")


def grid_keys() -> tuple[str, ...]:
    """Top-level keys of a grid file."""
    return tuple(field.name for field in dataclasses.fields(GridFile))


def document_keys(width: int = 100) -> str:
    """Every key of a grid file, what it means, what it takes and its default, as text for a terminal."""
    lines = ["Keys of a grid file (--set KEY=VALUE sets any of them, e.g. --set recipe.stage2.steps=50):", ""]
    for field in dataclasses.fields(GridFile):
        lines += key_text(field.name, info_of(field), default_of(field), "", width)
    lines += ["", "Keys of grid, and of the rows of cells, exclude and baseline:", ""]
    for name, info in ROW_KEYS.items():
        lines += key_text(name, info, info.default_note, "", width)
    lines += ["", "Keys of recipe:", ""]
    lines += key_text("from", _FROM, "none", "", width)
    lines += fields_text(Recipe, width)
    for name, stage in STAGES.items():
        lines += ["", f"Keys of recipe.{name}:", ""]
        lines += fields_text(stage, width)
    lines += ["", "Keys of decoding:", ""]
    lines += fields_text(Decoding, width)
    lines += ["", "Keys of backbone, where it is a mapping:", ""]
    lines += key_text("from", FROM, REQUIRED, "", width)
    lines += fields_text(DescribedBackbone, width)
    lines += key_text("tiling", TILING, TILING.default_note, "", width)
    lines += ["", "Keys of backbone.tiling:", ""]
    lines += key_text("scheme", SCHEME, SCHEME.default_note, "", width)
    lines += fields_text(Tiling, width)
    for kind in TILINGS.values():
        lines += fields_text(kind, width, inherited=Tiling)
    return "\n".join(lines)
