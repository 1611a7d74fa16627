"""The checks. Each takes a `Bed`, returns what it measured, and raises `Failed` where the result is wrong."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.gpu.bed import RATIO, Bed, cell_of
from vr_eval.adapters.answering import Answerer
from vr_eval.config.cell import Cell
from vr_eval.measure.timing import finish
from vr_eval.models.lvlm import IGNORE, LVLM
from vr_eval.probes.extract import Encodings, Subject
from vr_eval.probes.taps import POOLS, Pooled, taps_of
from vr_eval.runs.bench import cost_of
from vr_eval.training.stages import stages_of

MOST = {"float32": 2e-3, "bfloat16": 0.06}
"""Largest relative difference of logits, by the models' dtype (ours)."""
MOST_RANKED = {"float32": 2e-3, "bfloat16": 0.3}
"""The same where tokens are dropped by rank: of tokens that random weights rank almost alike, rounding chooses."""
BATCH = 4
NEW_TOKENS = 3
PROMPT = "What does the image show?"


class Failed(Exception):
    """A result that is not what it must be."""


def difference(one: Tensor, other: Tensor) -> float:
    """Root mean square of a difference of logits, relative to the logits' own spread."""
    one, other = one.float(), other.float()
    return float((one - other).square().mean().sqrt() / other.std())


def _judged(worst: float, model: LVLM, cell: Cell) -> dict[str, Any]:
    most = (MOST_RANKED if cell.pruning == "fastv" else MOST)[_dtype(model)]
    if not worst <= most:  # a NaN fails too
        raise Failed(f"logits differ by {worst:.3g} of their spread, more than {most}")
    return {"relative_difference": worst}


@torch.no_grad()
def batches(bed: Bed, cell: Cell) -> dict[str, Any]:
    """The last logits of four samples in one batch, against each by itself."""
    model = bed.model(cell).to_inference()
    encoder = bed.encoder(model)
    alone = [model(**bed.inputs(encoder, [n]), logits_to_keep=1).logits[0, -1] for n in range(BATCH)]
    together = model(**bed.inputs(encoder, range(BATCH)), logits_to_keep=1).logits[:, -1]
    worst = max(difference(mine, own) for mine, own in zip(together, alone, strict=True))
    return _judged(worst, model, cell)


@torch.no_grad()
def cache(bed: Bed, cell: Cell) -> dict[str, Any]:
    """Logits of an answer's tokens step by step with a cache, against one pass over the whole sequence without."""
    model = bed.model(cell).to_inference()
    given = bed.inputs(bed.encoder(model), [1, 3])
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    generator = torch.Generator().manual_seed(0)
    answer = torch.randint(5, 300, (len(ids), NEW_TOKENS), generator=generator).to(bed.device)
    first = model(ids, mask, **given, use_cache=True, logits_to_keep=1)
    steps, past = [first.logits[:, -1]], first.past_key_values
    for place in range(NEW_TOKENS):
        seen = torch.cat([mask, torch.ones_like(answer[:, : place + 1])], dim=1)
        out = model(answer[:, place : place + 1], seen, past_key_values=past, use_cache=True)
        steps.append(out.logits[:, -1])
    whole = model(
        torch.cat([ids, answer], dim=1),
        torch.cat([mask, torch.ones_like(answer)], dim=1),
        **given,
        instruction_mask=mask.bool(),
        use_cache=False,
        logits_to_keep=NEW_TOKENS + 1,
    ).logits
    worst = max(difference(step, whole[:, place]) for place, step in enumerate(steps))
    return _judged(worst, model, cell)


def costs(bed: Bed, cell: Cell, repeats: int) -> dict[str, Any]:
    """What `vr-eval bench` measures of the cell: prefill, decode, memory, operations."""
    cost = cost_of(cell, bed.model(cell), bed.device, repeats, trained=False, random_weights=True)
    names = ("vision_tokens", "method_parameters", "prefill_gflops", "prefill_ms", "inference_to_training")
    return {name: getattr(cost, name) for name in (*names, "decode_ms_per_token", "kv_cache_bytes", "peak_bytes")}


def flash(bed: Bed) -> dict[str, Any]:
    """Flash attention against sdpa in a padded batch, where it is installed."""
    if importlib.util.find_spec("flash_attn") is None:
        return {"skipped": "flash_attn is not installed"}
    cell = cell_of(bed.backbone, "avg_pool", RATIO)
    model = bed.model(cell).to_inference()
    given, logits = bed.inputs(bed.encoder(model), range(BATCH)), {}
    usual = model.language_model.config._attn_implementation
    try:
        for name in (usual, "flash_attention_2"):
            model.language_model.set_attn_implementation(name)
            with torch.no_grad():
                logits[name] = model(**given, logits_to_keep=1).logits[:, -1]
    finally:
        model.language_model.set_attn_implementation(usual)
    return _judged(difference(*logits.values()), model, cell)


def out_of_memory(bed: Bed, questions: int = 8) -> dict[str, Any]:
    """A batch that does not fit is halved until it does, and every question is answered."""
    model = bed.model(cell_of(bed.backbone, "mlp", 1)).to_inference()
    sizes: list[int] = []
    with _memory_for(bed, model, 2), _watched(model, sizes, 2 if bed.device.type == "cpu" else None):
        answerer = Answerer(model, bed.processor, batch_size=questions)
        answers = answerer.answer([bed.question(number) for number in range(questions)])
    failures = [answer.failure for answer in answers if answer.failure]
    if failures:
        raise Failed(f"{len(failures)} of {questions} questions failed: {failures[0]}")
    if max(sizes) < questions or len(sizes) < 3:
        raise Failed(f"memory did not run out: batches of {sizes}")
    return {"batches": sizes}


@contextlib.contextmanager
def _memory_for(bed: Bed, model: LVLM, batch: int) -> Any:
    """On a GPU, memory for so many questions at once and not for many more."""
    if bed.device.type == "cpu":
        yield
        return
    peaks = []
    for size in (1, batch):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bed.device)
        Answerer(model, bed.processor, batch_size=size).answer([bed.question(4 * n + 3) for n in range(size)])
        peaks.append(torch.cuda.max_memory_reserved(bed.device))
    total = torch.cuda.get_device_properties(bed.device).total_memory
    torch.cuda.empty_cache()
    room = peaks[1] + (peaks[1] - peaks[0]) // 2
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / total), bed.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bed.device)


@contextlib.contextmanager
def _watched(model: LVLM, sizes: list[int], most: int | None) -> Any:
    """Notes the sizes of batches; with `most`, larger ones run out of memory, as a CPU is not asked to."""
    generate = model.generate

    def watched(**kwargs: Any) -> Any:
        sizes.append(len(kwargs["input_ids"]))
        if most is not None and sizes[-1] > most:
            raise torch.OutOfMemoryError("a check asks for it")
        return generate(**kwargs)

    model.generate = watched  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del model.generate


def training(bed: Bed) -> dict[str, Any]:
    """One step of stage 2, decoder included, with and without activation checkpointing: the same gradients."""
    cell = cell_of(bed.backbone, "avg_pool", RATIO, refusion="vision_remember")
    model = bed.model(cell)
    given = bed.inputs(bed.encoder(model), [1])
    labels = given["input_ids"].masked_fill(given["input_ids"] == model.config.image_token_id, IGNORE)
    labels[:, : -NEW_TOKENS - 3] = IGNORE
    parts = stages_of(cell, model)[1].trained
    model.requires_grad_(False)
    for part in parts:
        for parameter in part.parameters:
            parameter.requires_grad_(True)
    watched = next(iter(model.projector.parameters()))
    gradients, found = [], {}
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        model.zero_grad(set_to_none=True)
        _reset_peak(bed)
        loss = model(**given, labels=labels, use_cache=False).loss
        loss.backward()
        gradients.append(watched.grad.detach().clone())
        name = "with" if checkpointing else "without"
        found[f"loss_{name}_checkpointing"] = float(loss.detach())
        found[f"peak_bytes_{name}_checkpointing"] = _peak(bed)
    fused = bed.device.type == "cuda"  # no copies of gigabytes
    optimizer = torch.optim.AdamW([{"params": part.parameters, "lr": part.lr} for part in parts], fused=fused)
    before, started = watched.detach().clone(), time.perf_counter()
    optimizer.step()
    finish(bed.device)
    found |= {"optimizer_step_ms": (time.perf_counter() - started) * 1000, "peak_bytes": _peak(bed)}
    found["gradient_difference"] = difference(gradients[1], gradients[0])
    model.eval().requires_grad_(False)
    model.activation_checkpointing_disable()
    with torch.no_grad():
        found["loss_after"] = float(model(**given, labels=labels, use_cache=False).loss)
    most = MOST[_dtype(model)]
    if not found["gradient_difference"] <= most or torch.equal(before, watched) or not found["loss_after"] < 100:
        raise Failed(f"the step went wrong: {found}")
    return found


@torch.no_grad()
def probes(bed: Bed, cell: Cell, images: int = 4) -> dict[str, Any]:
    """Features of a few images at every tap by every pool: all there, finite."""
    model = bed.model(cell).to_inference()
    subject = Subject.of(model, bed.processor, PROMPT)
    pixels = subject.pixels([bed.messages(number)[0]["content"][0]["image"] for number in range(images)])
    taps = taps_of(model)
    pooled = Pooled((tap, pool) for tap in taps for pool in POOLS)
    finish(bed.device)
    started = time.perf_counter()
    subject.run(Encodings([subject], pixels).of(subject), images, pooled)
    finish(bed.device)
    seconds = time.perf_counter() - started
    lacking = sorted({tap for tap in taps for pool in POOLS if (tap, pool) not in pooled.found})
    broken = sorted({tap for (tap, _), value in pooled.found.items() if not bool(value.isfinite().all())})
    if lacking or broken:
        raise Failed(f"no features at {lacking}; not finite at {broken}")
    return {"taps": len(taps), "ms_per_image": 1000 * seconds / images}


def bench(bed: Bed, repeats: int) -> dict[str, Any]:
    """`vr-eval bench --random-weights` as a user calls it."""
    from vr_eval.cli import main

    text = (
        f"name: gpu\nbackbone: {bed.backbone}\ntasks: [vr_micro_ocr]\n"
        "cells:\n  - {projector: mlp}\n  - {projector: avg_pool, ratio: 4}\n"
    )
    written = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(written):
        file = Path(folder) / "gpu.yaml"
        file.write_text(text)
        how = ["--device", str(bed.device), "--repeats", str(repeats), "--dtype", bed.loading.dtype]
        code = main(["bench", str(file), "--random-weights", "--json", *how])
    if code:
        raise Failed(f"exit code {code}")
    content: Mapping[str, Any] = json.loads(written.getvalue())
    return {cell["label"]: {"prefill_ms": cell["prefill_ms"]} for cell in content["cells"]}


def _dtype(model: LVLM) -> str:
    return str(model.dtype).removeprefix("torch.")


def _reset_peak(bed: Bed) -> None:
    if bed.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bed.device)


def _peak(bed: Bed) -> int | None:
    return int(torch.cuda.max_memory_allocated(bed.device)) if bed.device.type == "cuda" else None
