"""The report of a run: a pure function of its run directory."""

from vr_eval.report.images import image_path, save_image
from vr_eval.report.samples import choose_samples

__all__ = ["choose_samples", "image_path", "save_image"]
