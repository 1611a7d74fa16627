"""``vr-eval doctor``: versions, devices, disks, the hub, and what is cached of what a grid (or everything) needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from vr_eval.config.grid import Grid
from vr_eval.doctor.disk import space_needed
from vr_eval.doctor.hub import Hub, look, size_of
from vr_eval.doctor.needs import Need, all_needs, needs_of
from vr_eval.environment import describe
from vr_eval.errors import InputError
from vr_eval.notation import bytes_text
from vr_eval.paths import home
from vr_eval.places import data_cache, hub_cache, nearest_existing

HUB_STATES = {"reached": "can be reached", "unreachable": "cannot be reached", "offline": "not asked"}


def examine(grid: Grid | None = None) -> tuple[str, int]:
    """The findings as text, and the exit code: 1 if `grid` needs what is not there and cannot be fetched.

    Raises:
        InputError: A task of `grid` has no definition.
    """
    hub = look()
    needs = needs_of(grid) if grid is not None else all_needs()
    # Without a grid the list is long, and asking for every size would take minutes where the hub is slow.
    ask = grid is not None and hub.state == "reached"
    sizes = {need: size_of(need) for need in needs if ask and not need.cached}
    missing = [need for need in needs if not need.cached]
    wanted, unknown = sum(size or 0 for size in sizes.values()), any(size is None for size in sizes.values())
    full = [place for place in space_needed(sizes) if place.wanted > place.free]
    lines = [*_machine(), "", *_disks(), "", *_hub(hub), ""]
    lines += [f"{grid.name} needs from the hub" if grid else "of all suites and backbones in the cache", *_needs(needs)]
    code = 0
    if grid is not None:
        lines += [""]
        if not missing:
            lines += [f"{grid.name} can run without network"]
        else:
            code = int(hub.state != "reached" or bool(full))
            size = bytes_text(None) if not sizes else f"{'at least ' if unknown else ''}{bytes_text(wanted)}"
            lines += [
                f"to fetch: {len(missing)} of {len(needs)}, {size}; `vr-eval fetch` with the same arguments does it"
            ]
            lines += [
                f"the disk of {place.folder} has {bytes_text(place.free)} left, and this takes about "
                f"{bytes_text(place.wanted)}: free some, or set HF_HOME to a folder on a larger disk"
                for place in full
            ]
            if hub.state != "reached":
                lines += [f"the hub {HUB_STATES[hub.state]}, so this machine cannot: {hub.reason}"]
    return "\n".join(lines), code


def _machine() -> Iterator[str]:
    found = describe("")
    yield "machine"
    yield f"  platform    {found.platform}"
    yield f"  cpu         {found.cpu}"
    yield f"  gpu         {', '.join(_gpus()) or 'none: everything runs on the CPU'}"
    for name, version in found.versions.items():
        yield f"  {name:<11} {version or 'not installed'}"


def _gpus() -> Iterator[str]:
    import torch

    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free = torch.cuda.mem_get_info(index)[0]
        yield f"{properties.name}, {bytes_text(free)} of {bytes_text(properties.total_memory)} free"


def _disks() -> Iterator[str]:
    yield "disk"
    for name, known in {"working": Path.cwd, "models": hub_cache, "data": data_cache, "trained": home}.items():
        try:
            place = known()
            yield f"  {name:<11} {bytes_text(shutil.disk_usage(nearest_existing(place)).free)} free, {place}"
        except InputError as error:
            yield f"  {name:<11} {error.problems[0].message}: set {error.problems[0].file}"


def _hub(hub: Hub) -> Iterator[str]:
    yield "hub"
    reason = f": {hub.reason}" if hub.reason else ""
    yield f"  {hub.endpoint} {HUB_STATES[hub.state]}{reason}"
    yield "  a token is there" if hub.token else "  no token: only gated models and data need one (`hf auth login`)"


def _needs(needs: Sequence[Need]) -> Iterator[str]:
    if not needs:
        yield "  nothing: its data and weights are here"
    for _, group in groupby(needs, key=lambda need: (need.kind, need.name, need.cached)):
        alike = list(group)
        label = alike[0].label if len(alike) == 1 else f"{alike[0].kind} {alike[0].name} ({len(alike)} parts)"
        state = f"cached, {bytes_text(sum(need.bytes or 0 for need in alike))}" if alike[0].cached else "missing"
        questions = ", ".join(f"{split} {count:,}" for need in alike[:1] for split, count in need.questions)
        yield f"  {label}: {state}" + (f" ({questions})" if questions and len(alike) == 1 else "")
