"""What a figure shows, in one sentence that is made from its numbers and claims no more than they carry."""

from __future__ import annotations

from collections.abc import Sequence

from vr_eval.probes.about import ProbedCell
from vr_eval.probes.records import ProbeRun
from vr_eval.probes.summary import Answers, Dense, cells_of
from vr_eval.probes.tapnames import REFUSION
from vr_eval.reporting.notation import interval, plural, points, signed
from vr_eval.stats import Estimate

Measured = tuple[ProbedCell, Estimate]


def depth_sentence(one: Answers) -> str:
    """How many models lose at the projector and along the decoder, which most, and what refusion changes at the end."""
    plain = [cell for cell in one.cells if cell.refusion == cell.pruning == cell.image == "none"]
    at_projector = _known((cell, one.bottleneck(cell)) for cell in plain)
    along = _known((cell, one.forgetting(cell)) for cell in plain)
    pairs = [(a, b) for a, b in one.with_refusion() if a.pruning == a.image == "none" and a.taps and b.taps]
    ends = _known((a, one.compared(a, b, a.taps[-1])) for a, b in pairs)
    parts = []
    if at_projector:
        parts.append(f"at the projector {_falling(at_projector)}; {_largest_drop(at_projector)}")
    if along:
        parts.append(f"along the decoder {_falling(along)}; {_largest_drop(along)}")
    if ends:
        gain = [cell for cell, estimate in ends if estimate.low > 0]
        harm = [cell for cell, estimate in ends if estimate.high < 0]
        mean = sum(estimate.value for _, estimate in ends) / len(ends)
        parts.append(
            f"at the last tap refusion changes {plural(len(ends), 'model')} by {signed(mean)} points on average "
            f"({len(gain)} better, {len(harm)} worse beyond their intervals)"
        )
    text = "; ".join(parts) or "the taps that were read do not tell losses apart"
    return f"{text[0].upper()}{text[1:]}. Guessing gives {points(one.question.chance)}."


def heat_sentence(one: Answers) -> str:
    """Between what accuracies all of it lies, and where the best of the compressed models is best."""
    entries = [(one.accuracy(c, t).value, c.label, t) for c in one.cells for t in one.taps if one.has(c, t)]
    low, high = min(entries), max(entries)
    return (
        f"Accuracy in points. Least is read from {low[1]} at {low[2]} ({points(low[0])}), "
        f"most from {high[1]} at {high[2]} ({points(high[0])}). Empty: no such tap."
    )


def density_sentence(run: ProbeRun) -> str:
    """Where text attends to vision most, and against what even attention would give."""
    if run.density.empty:
        return ""
    table = run.density.assign(share=[100 * sum(row) / len(row) for row in run.density["share"]])
    by_layer = table.groupby("layer")["share"].mean()
    shares = by_layer.to_numpy()
    top, bottom = int(shares.argmax()), int(shares.argmin())
    even = table.assign(times=table["share"] / (100 * table["even"]))
    below = int((even["times"] < 1).sum())
    return (
        f"Mean over the models, text gives vision tokens {points(shares[top])} % of its attention in layer "
        f"{by_layer.index[top]} and {points(shares[bottom])} % in layer {by_layer.index[bottom]}; in {below} of "
        f"{len(even)} layers of models that is less than even attention to all tokens would give."
    )


def dense_sentence(run: ProbeRun) -> str:
    """What every refusion point changes for single tokens."""
    dense = Dense(run)
    found = []
    for cell in cells_of(run):
        for tap in (tap for tap in cell.taps if tap.endswith(REFUSION) and (cell.id, tap) in dense.rows):
            before = cell.before(tap)
            if before is not None and (cell.id, before) in dense.rows:
                found.append((dense.change(cell.id, tap, before), cell, tap))
    if not found:
        return "No refusion point was read."
    best = max(found, key=lambda entry: entry[0].value)
    better = sum(estimate.low > 0 for estimate, _, _ in found)
    worse = sum(estimate.high < 0 for estimate, _, _ in found)
    return (
        f"Of {plural(len(found), 'refusion point')}, {better} bring glyphs back to their tokens and {worse} lose some, "
        f"beyond their intervals; the most favourable change is at {best[2]} of {best[1].label}: "
        f"{signed(best[0].value)} points "
        f"({interval(best[0])})."
    )


def _known(measured: object) -> list[Measured]:
    return [(cell, estimate) for cell, estimate in measured if estimate.known]  # type: ignore[attr-defined]


def _largest_drop(measured: Sequence[Measured]) -> str:
    cell, estimate = min(measured, key=lambda entry: entry[1].value)
    if estimate.value >= 0:
        return "the accuracy of none is lower behind it"
    return f"the largest drop is that of {cell.label}, {signed(estimate.value)} points ({interval(estimate)})"


def _falling(measured: Sequence[Measured]) -> str:
    lost = sum(e.high < 0 for _, e in measured)
    return f"{lost} of {plural(len(measured), 'model')} without refusion lose information beyond its interval"
