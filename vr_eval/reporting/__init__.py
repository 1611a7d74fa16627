"""The report of a run: a pure function of its run directory.

A run keeps the images of `choose_samples` with `save_images`; `build` writes the report; `run_table` and
`render_terminal` give the short table for a terminal.
"""

from vr_eval.reporting.compose import build, run_table
from vr_eval.reporting.images import has_images, save_images
from vr_eval.reporting.samples import choose_samples
from vr_eval.reporting.text import render_terminal

__all__ = ["build", "choose_samples", "has_images", "render_terminal", "run_table", "save_images"]
