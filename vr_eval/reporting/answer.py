"""One or two sentences that answer a grid's question from its scores, whether a method wins or loses."""

from __future__ import annotations

from vr_eval.reporting.columns import option_text, row_name
from vr_eval.reporting.configurations import Configuration
from vr_eval.reporting.definition import Definition
from vr_eval.reporting.notation import interval, plural, points, signed
from vr_eval.reporting.scores import Pair, Scores
from vr_eval.stats import Estimate

_SHOWN_VARIANTS = 3


def answer(scores: Scores, definition: Definition) -> str:
    """What refusion does to the configurations that ran without it too; without such pairs, what compression costs."""
    variants = variants_of_refusion(scores, definition)
    estimates = {name: scores.mean_difference(pairs) for name, pairs in variants.items()}
    known = {name: estimate for name, estimate in estimates.items() if estimate.known}
    if not variants:
        return _compression(scores, definition)
    if not known:
        return (
            "No refusion can be compared with the same projector without it: there are no questions that both answered."
        )
    if len(known) <= _SHOWN_VARIANTS:
        return " ".join(_sentence(name, estimate, len(variants[name])) for name, estimate in known.items())
    best, worst = max(known, key=lambda n: known[n].value), min(known, key=lambda n: known[n].value)
    return (
        f"{len(known)} variants of refusion were compared with the same projector without it. The largest difference: "
        f"{_sentence(best, known[best], len(variants[best]))} The smallest: "
        f"{_sentence(worst, known[worst], len(variants[worst]))}"
    )


def variants_of_refusion(scores: Scores, definition: Definition) -> dict[str, list[Pair]]:
    """Pairs (with, without) by refusion and its options."""
    variants: dict[str, list[Pair]] = {}
    for row, other in scores.pairs:
        variants.setdefault(variant_name(row, definition), []).append((row, other))
    return variants


def variant_name(row: Configuration, definition: Definition) -> str:
    """``Vision Remember [scope=global]``."""
    own = row.options.get(row.refusion, {})
    options = option_text({row.refusion: own}, row.variant)
    return definition.name(row.refusion) + (f" [{options}]" if options else "")


def _sentence(name: str, estimate: Estimate, pairs: int) -> str:
    span = f"95 % interval {interval(estimate)}" if estimate.bounded else "no interval can be given"
    where = f"the same projector without it, across {plural(pairs, 'pair')}"
    if not estimate.excludes_zero:
        return (
            f"{name} makes no difference that these {plural(estimate.n, 'question')} can show: "
            f"{signed(estimate.value)} points on average ({span}) against {where}."
        )
    if estimate.value > 0:
        return f"{name} adds {points(estimate.value)} points on average ({span}) over {where}."
    return f"{name} loses {points(-estimate.value)} points on average ({span}) against {where}."


def _compression(scores: Scores, definition: Definition) -> str:
    compared = []
    for row in scores.configurations:
        baseline = scores.baseline(row)
        if baseline is not None and row is not baseline:
            estimate = scores.difference(row, baseline)
            if estimate.known:
                compared.append((estimate, row, baseline))
    if not compared:
        return "Nothing here can be compared: there is no pair with and without refusion, and no baseline with answers."
    estimate, row, baseline = max(compared, key=lambda found: found[0].value)
    which = "" if len(compared) == 1 else f" is the closest to the baseline of {len(compared)} rows:"
    verb = " is" if len(compared) == 1 else ""
    span = f" (95 % interval {interval(estimate)})" if estimate.bounded else ""
    tokens = f" with {row.tokens} of {baseline.tokens} tokens"
    return (
        f"{row_name(row, definition)}{which}{verb} {signed(estimate.value)} points on average{span} "
        f"against {row_name(baseline, definition)}{tokens}."
    )
