"""What jobs ask of Slurm: ``--slurm FILE.yaml`` and ``--slurm KEY=VALUE``, every problem in one error. Light."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vr_eval.catalog.fields import checked, described
from vr_eval.config.document import MAX_BYTES, NO_PATH, Node, Problems, override, parse
from vr_eval.config.key_text import fields_text
from vr_eval.errors import InputError, nearest
from vr_eval.files import read_text

OPTION = "--slurm"


@dataclass(frozen=True)
class SlurmOptions:
    """What each job of a run asks for; a job has one node and does one task."""

    cluster: str = described(
        "slurm", "who runs the jobs; local: processes on this machine, to try it out", choices=("slurm", "local")
    )
    partition: str | None = described(
        None, "queue", example="partition: gpu", default_note="the cluster's own; several with commas between them"
    )
    account: str | None = described(None, "who pays", example="account: my_project", default_note="your own")
    qos: str | None = described(None, "quality of service", example="qos: normal", default_note="the cluster's own")
    array: int = described(16, "jobs that run at once, at most", minimum=1, maximum=1_000)
    minutes: int = described(
        240, "time of a job; what is not done by then goes on in the queue again", minimum=5, maximum=43_200
    )
    gpus: int = described(1, "GPUs of a job", minimum=0, maximum=64)
    gpu_type: str | None = described(
        None, "kind of GPU, as the cluster calls it", example="gpu_type: a100", default_note="any"
    )
    cpus: int = described(8, "cores of a job", minimum=1, maximum=1_024)
    memory: int = described(32, "main memory of a job, in GB", minimum=1, maximum=16_384)
    constraint: str | None = described(
        None, "features that the node has", example="constraint: ib", default_note="none needed"
    )
    exclude: str | None = described(
        None, "nodes that are never taken", example='exclude: "node[01-04]"', default_note="none"
    )
    setup: tuple[str, ...] = described(
        (),
        "lines of shell that a job begins with; none of them where jobs are local",
        example="setup: [module load cuda, export HF_HUB_OFFLINE=1]",
    )
    notice: int = described(
        120, "seconds before its end that a job is told, to save what it has", minimum=10, maximum=3_600
    )


def slurm_keys() -> tuple[str, ...]:
    """The keys, in their order."""
    return tuple(field.name for field in dataclasses.fields(SlurmOptions))


def slurm_keys_text(width: int) -> Iterator[str]:
    """What each key means, in lines of `width` characters at most."""
    return fields_text(SlurmOptions, width)


def parse_slurm(given: Sequence[str]) -> SlurmOptions:
    """The options that the texts of ``--slurm`` give; where two give the same key, the later one counts.

    Args:
        given: each a YAML file with keys, or ``KEY=VALUE``, the value as YAML.

    Raises:
        InputError: with every problem of files and command line.
    """
    problems = Problems()
    root = Node({}, OPTION)
    for text in given:
        key, equals, value = text.partition("=")
        if equals and key.strip():
            root = override(root, (key.strip(),), _value(key.strip(), value, text, problems))
        else:
            for name, node in _file(text, problems).entries.items():
                root = override(root, (name,), node)
    options = {key: value for key, node in root.entries.items() for value in _checked(key, node, problems)}
    made = SlurmOptions() if problems else SlurmOptions(**options)  # type: ignore[arg-type]
    if made.notice >= 60 * made.minutes:
        node = root.entries.get("notice", root)
        allowed = f"less than the time of a job, {60 * made.minutes} s"
        problems.add(node, "notice", "this value does not fit", given=made.notice, allowed=allowed)
    problems.raise_any()
    return made


def _value(key: str, value: str, text: str, problems: Problems) -> Node:
    failed = Problems()
    node = parse(value, OPTION, failed, lines=False)
    for problem in failed.by_text.values():
        problems.add(Node(None, OPTION), key, problem.message, given=text)
    return node or Node(None, OPTION)


def _file(name: str, problems: Problems) -> Node:
    nothing = Node({}, name)
    try:
        there = Path(name).is_file()
    except NO_PATH:
        there = False
    if not there:
        allowed = f"a file, or KEY=VALUE with one of the keys {', '.join(slurm_keys())}"
        hint = f"For example: {OPTION} partition=gpu"
        problems.add(Node(None, OPTION), None, "there is no such file", given=name, allowed=allowed, hint=hint)
        return nothing
    try:
        root = parse(read_text(Path(name), name, MAX_BYTES + 1), name, problems)
    except InputError as error:
        for problem in error.problems:
            problems.by_text.setdefault(problem.render(), problem)
        return nothing
    if root is not None and not isinstance(root.value, dict):
        problems.add(root, None, "a file of Slurm options is a mapping of keys", given=root.plain)
        return nothing
    return root or nothing


def _checked(key: str, node: Node, problems: Problems) -> Iterator[object]:
    """The value of one key, or nothing where it does not fit."""
    known = slurm_keys()
    if key not in known:
        problems.add(node, key, "unknown key", allowed=", ".join(known), nearest=nearest(key, known))
        return
    value = [item.plain for item in node.items] if key == "setup" else node.plain
    try:
        fitting = checked(SlurmOptions, key, value)
    except ValueError as error:
        close = nearest(node.value, str(error).split(", ")) if isinstance(node.value, str) else None
        # `account: 1234` and `constraint: [a100&ib]` are text to Slurm and something else to YAML.
        hint = f"Put it in quotes; on the command line: {OPTION} '{key}=\"..\"'" if "text" in str(error) else None
        problems.add(
            node, key, "this value does not fit", given=node.plain, allowed=str(error), nearest=close, hint=hint
        )
        return
    if isinstance(fitting, str) and not fitting.isprintable():
        problems.add(node, key, "this value does not fit", given=fitting, allowed="one line of text")
        return
    yield fitting
