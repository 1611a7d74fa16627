"""The report's figures: score against vision tokens, and what refusion changes in each suite."""

from __future__ import annotations

from vr_eval.reporting.definition import Definition
from vr_eval.reporting.difference_figure import draw_differences
from vr_eval.reporting.score_figure import draw_scores
from vr_eval.reporting.scores import Scores
from vr_eval.reporting.svg import Drawing, drawing


def draw_figures(scores: Scores, definition: Definition) -> list[Drawing]:
    """The figures for which the run has data; possibly none."""
    with drawing():
        found = (draw_scores(scores, definition), draw_differences(scores, definition))
    return [figure for figure in found if figure is not None]
