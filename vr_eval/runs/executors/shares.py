"""How a machine is divided among workers: a GPU each, or its cores. Brings torch where a GPU may be."""

from __future__ import annotations

import os
from collections.abc import Mapping

from vr_eval.runs.executors.local import Share
from vr_eval.runs.executors.options import WorkerOptions


def shares_for(options: WorkerOptions, device: str, most: int, *, embedded: bool) -> list[Share]:
    """What each worker of this machine gets, at most so many; nothing where the workers are a cluster's."""
    if options.executor != "local":
        return []
    if options.alone:
        return [Share(1, None, {})]
    return shares_of(device, options.workers, most, embedded=embedded)


def several(options: WorkerOptions, device: str, *, embedded: bool) -> bool:
    """Whether this machine will be divided, as far as can be told before torch counts its GPUs."""
    return options.executor == "local" and (options.workers or _by_cores(device, embedded)) > 1


def shares_of(device: str, workers: int | None, most: int, *, embedded: bool) -> list[Share]:
    """What each of the workers gets.

    Args:
        device: As ``--device`` takes it: `auto` and `cuda` stand for all GPUs, where there are some.
        workers: How many the user wants; None for as many as there are GPUs or cores.
        most: More than this have nothing to do.
        embedded: Whether models are small; of another backbone, several may not fit into memory.
    """
    gpus = _gpus() if device in ("auto", "cuda") else []
    if gpus:
        count = min(workers or len(gpus), most)
        threads = _threads(count)
        return [Share(n + 1, threads, {"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]}) for n in range(count)]
    count = min(workers or _by_cores(device, embedded), most)
    nothing: Mapping[str, str] = {}
    return [Share(n + 1, _threads(count), nothing) for n in range(count)]


def has_gpu(device: str) -> bool:
    """Whether a task takes a GPU, by ``--device`` and by what this machine has."""
    return device.startswith("cuda") or (device == "auto" and bool(_gpus()))


def cores() -> int:
    """Cores that this process may use; containers and affinities limit them."""
    from joblib import cpu_count

    return int(cpu_count())


def _by_cores(device: str, embedded: bool) -> int:
    """Workers where there are no GPUs."""
    return cores() if embedded and device in ("auto", "cpu") else 1


def _threads(workers: int) -> int | None:
    """Threads of each; None where the user has said so already."""
    return None if "OMP_NUM_THREADS" in os.environ else max(1, cores() // workers)


def _gpus() -> list[str]:
    """What names each GPU that this process sees."""
    import torch

    count = torch.cuda.device_count()
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[:count] if visible else [str(number) for number in range(count)]
