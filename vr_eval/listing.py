"""``vr-eval list``: methods, backbones and ablations as text, from the registries alone."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator

from vr_eval import paths
from vr_eval.catalog.backbones import BACKBONES, BackboneSpec
from vr_eval.catalog.fields import info_of
from vr_eval.catalog.official_tasks import OFFICIAL, OfficialTask
from vr_eval.catalog.sizes import PUBLISHED
from vr_eval.catalog.tasks import task_data
from vr_eval.errors import InputError, Problem, nearest
from vr_eval.methods.options import ImageOptions, Options, ProjectorOptions, square_ratios
from vr_eval.methods.registry import METHODS, PACKAGES, MethodSpec

WIDTH = 110


def list_methods(backbone: str, parameters: bool = False) -> str:
    """Every method: seam, options with defaults and sources, publication, and its tokens on ``backbone``.

    With ``parameters`` also what it adds there, counted from its module, which takes torch.

    Raises:
        InputError: The backbone is not registered.
    """
    if backbone not in BACKBONES:
        allowed, close = ", ".join(BACKBONES), nearest(backbone, BACKBONES)
        raise InputError(Problem("unknown backbone", "--backbone", given=backbone, allowed=allowed, nearest=close))
    spec = BACKBONES[backbone]
    shown = "tokens and parameters" if parameters else "tokens"
    head = f"Methods ({shown} on the backbone {spec.name}, {spec.grid}x{spec.grid} patches)"
    return "\n\n".join([head, *("\n".join(_method(method, spec, parameters)) for method in METHODS.values())])


def list_backbones() -> str:
    """Every backbone with its sizes, suites and tasks."""
    blocks = []
    for spec in BACKBONES.values():
        suites = "; ".join(f"{suite}: {', '.join(tasks)}" for suite, tasks in spec.suites.items())
        lines = [
            f"{spec.name}: {spec.summary}",
            f"  image     {_image(spec)}",
            f"  tower     {spec.tower_depth} layers, {spec.tower_width} wide",
            f"  decoder   {spec.decoder_depth} layers, {spec.decoder_width} wide",
            f"  ratios    {', '.join(f'1/{ratio}' for ratio in square_ratios(spec.grid))}",
            *(f"  weights   {source}" for source in spec.sources),
            f"  loaded    in {spec.loading.dtype}",
            f"  template  {_template(spec)}",
            f"  suites    {suites}",
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _template(spec: BackboneSpec) -> str:
    """The chat template that its cells are trained and asked with."""
    name = spec.template or "that of its tokenizer's family"
    return f"the checkpoint's own, or {name} where it has none for images" if spec.checkpoint else name


def _image(spec: BackboneSpec) -> str:
    square = f"{spec.image_px}x{spec.image_px} pixels, {spec.grid}x{spec.grid} patches"
    if spec.tiling is None:
        return square
    text = f"a base view and up to {spec.tiling.most_tiles(spec.image_px)} tiles of {square} each"
    return "; ".join(filter(None, (text, spec.tiling.note)))


def list_tasks() -> str:
    """Every official task by suite: data, what is scored, and how that becomes 0 to 100."""
    head = (
        "Official tasks of lmms-eval, for backbones of real images. A task's score is 100 times the mean of its "
        "questions' scores, a suite's the plain mean of its tasks, and the average the plain mean of the suites."
    )
    blocks = ["\n".join(textwrap.wrap(head, WIDTH))]
    for suite in dict.fromkeys(task.suite for task in OFFICIAL.values()):
        entries = [line for task in OFFICIAL.values() if task.suite == suite for line in _task(task)]
        blocks.append("\n".join([suite, *entries]))
    return "\n\n".join(blocks)


def list_ablations() -> str:
    """Every grid file that travels with the project, with the question it asks (its first comment line)."""
    lines = []
    for path in sorted(paths.resource("ablations").glob("*.yaml")):
        with path.open(encoding="utf-8") as file:
            question = file.readline().removeprefix("#").strip()
        lines.append(f"{path.stem:<16} {question}")
    return "\n".join(lines) if lines else f"no grid files in {paths.resource('ablations')}"


def _task(task: OfficialTask) -> Iterator[str]:
    yield f"  {task.name}"
    data = ", ".join(dict.fromkeys(source.path for source in task_data(task.name)))
    yield from _entry("data", data, indent=4)
    size = PUBLISHED.get(task.name)
    yield from _entry("questions", f"{size.questions:,} ({size.source})" if size else "unknown", indent=4)
    metrics = [f"{metric.key} of {metric.maximum:g}" for metric in task.metrics]
    # Where what is scored together has a maximum of its own, a question has one of the metrics.
    yield from _entry("metric", (" and " if task.maximum else "; beside it ").join(metrics), indent=4)
    if task.unit:
        yield from _entry("one question", f"all that share {task.unit}", indent=4)
    if task.by_kind:
        yield from _entry("mean", f"of the means of each {task.kind}", indent=4)
    if task.only:
        yield from _entry("only", f"{task.only[0]} {task.only[1]}", indent=4)
    if "max_new_tokens" in task.generation:
        yield from _entry("answer", f"at most {task.generation['max_new_tokens']} tokens (ours)", indent=4)
    if task.judge:
        yield from _entry("judge", f"a model behind an API, so in no suite; needs {', '.join(task.judge)}", indent=4)


def _method(method: MethodSpec, spec: BackboneSpec, parameters: bool) -> Iterator[str]:
    kind = "trained" if method.trainable else "training-free"
    defaults = method.options()
    resolved = defaults.resolve(spec)
    yield f"{method.name}  ({method.seam}, {kind}, version {method.version})"
    yield from _entry("", method.summary)
    yield from _entry("source", ", ".join(filter(None, (method.source, method.link))))
    if method.name in PACKAGES:
        yield from _entry("package", PACKAGES[method.name])
    yield from _entry("tokens", _tokens(resolved, spec))
    if parameters:
        yield from _entry("parameters", _parameters(method, spec, resolved))
    for source, text in method.details:
        yield from _entry(source, text)
    for field in dataclasses.fields(defaults):
        info = info_of(field)
        default = _plain(getattr(defaults, field.name))
        if info.default_note:
            default += f": {info.default_note}; here {_plain(getattr(resolved, field.name))}"
        choices = f" [{', '.join(info.choices)}]" if info.choices else ""
        yield from _entry(field.name, f"{info.help}{choices} (default {default}; {info.source})", indent=4)


def _tokens(options: Options, spec: BackboneSpec) -> str:
    if isinstance(options, ProjectorOptions):
        counts = (f"1/{ratio}: {options.tokens(spec.grid, ratio)}" for ratio in options.ratios(spec.grid))
        return ", ".join(counts)
    if isinstance(options, ImageOptions):
        side = options.patches(spec.grid)
        return f"those that the projector makes of {side}x{side} patches"
    return "those of the projector"


def _parameters(method: MethodSpec, spec: BackboneSpec, options: Options) -> str:
    """Parameters that it adds, at each ratio if that makes a difference."""
    from vr_eval.models.methods import added_parameters

    ratios = options.ratios(spec.grid) if isinstance(options, ProjectorOptions) else square_ratios(spec.grid)
    counts = {ratio: added_parameters(method.name, spec, ratio, options) for ratio in ratios}
    if not any(counts.values()):
        return "none of its own"
    if len(set(counts.values())) == 1:
        return f"{next(iter(counts.values())):,}, at every ratio"
    return ", ".join(f"1/{ratio}: {count:,}" for ratio, count in counts.items())


def _entry(name: str, text: str, indent: int = 2) -> Iterator[str]:
    head = " " * indent + (f"{name:<15}" if name else "")
    yield from textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def _plain(value: object) -> str:
    """``value`` as YAML writes it."""
    if isinstance(value, tuple):
        return str(list(value))
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
