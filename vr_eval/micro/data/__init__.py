"""Generated scenes of the micro benchmarks: images, questions, dense labels, and the files they are kept in."""

from vr_eval.catalog.generator import GENERATOR_VERSION
from vr_eval.micro.data.generate import generate, scene
from vr_eval.micro.data.scene import Question, Scene
from vr_eval.micro.data.store import build, load, write_test_sets
from vr_eval.micro.data.vocabulary import COLOURS, GLYPHS, GRID, PATCH, SPLITS, SUITES

__all__ = [
    "COLOURS",
    "GENERATOR_VERSION",
    "GLYPHS",
    "GRID",
    "PATCH",
    "SPLITS",
    "SUITES",
    "Question",
    "Scene",
    "build",
    "generate",
    "load",
    "scene",
    "write_test_sets",
]
