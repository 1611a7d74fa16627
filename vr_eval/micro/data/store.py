"""Scenes as parquet: the training and validation sets built on this machine, and the test sets that are committed.

Every file appears complete or not at all, and its name says all that its content depends on.
"""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vr_eval.catalog.generator import GENERATOR_VERSION
from vr_eval.errors import InputError, Problem
from vr_eval.files import atomic_target
from vr_eval.micro.data.generate import scene
from vr_eval.micro.data.scene import Scene
from vr_eval.micro.data.vocabulary import GRID, SUITES
from vr_eval.paths import home

if TYPE_CHECKING:
    from datasets import Dataset, Features

TEST_IMAGES = 256
TEST_QUESTIONS = 2  # per image
_COLUMNS = 3  # raised when the columns of a kept file or the facts change, so that no older file is taken for a new one
_CHUNK = 64  # scenes a worker draws at a time


def png(image: Image.Image, *, small: bool = False) -> bytes:
    """``image`` as PNG, without loss; ``small`` takes ten times as long and uses a palette where 256 colours do."""
    if small:
        image = _with_palette(image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=small, compress_level=9 if small else 3)
    return buffer.getvalue()


def _with_palette(image: Image.Image) -> Image.Image:
    """The same pixels as indices into a palette, or the image itself if it has more than 256 colours."""
    red, green, blue = np.moveaxis(np.asarray(image, dtype=np.uint32), -1, 0)
    palette, indices = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
    if len(palette) > 256:
        return image
    paletted = Image.fromarray(indices.reshape(image.height, image.width).astype(np.uint8))
    paletted.putpalette(b"".join(int(colour).to_bytes(3, "big") for colour in palette))
    return paletted


def _image_row(drawn: Scene) -> dict[str, Any]:
    return {
        "id": drawn.id,
        "image": {"bytes": png(drawn.image), "path": None},
        "suite": drawn.suite,
        "kinds": [question.kind for question in drawn.questions],
        "questions": [question.question for question in drawn.questions],
        "answers": [question.answer for question in drawn.questions],
        "glyphs": drawn.glyphs.ravel().tolist(),
        "colours": drawn.colours.ravel().tolist(),
        "anchors": drawn.anchors.ravel().tolist(),
        "facts": list(drawn.facts),
        "key": drawn.key,
    }


def _image_rows(task: tuple[str, str, int, int, int, int]) -> list[dict[str, Any]]:
    suite, split, start, stop, seed, questions = task
    return [_image_row(scene(suite, split, index, seed=seed, questions=questions)) for index in range(start, stop)]


def _question_rows(drawn: Scene) -> list[dict[str, Any]]:
    # One name for both uses, so that intervals can treat the questions on one image as one cluster.
    image = {"bytes": png(drawn.image, small=True), "path": None}
    return [
        {
            "id": f"{drawn.id}-{number}",
            "image": image,
            "image_id": drawn.id,
            "suite": drawn.suite,
            "kind": question.kind,
            "question": question.question,
            "answer": question.answer,
        }
        for number, question in enumerate(drawn.questions)
    ]


def _features(images: bool) -> Features:
    from datasets import Features, List, Value
    from datasets import Image as ImageFeature

    text = Value("string")
    if not images:
        names = ("id", "image", "image_id", "suite", "kind", "question", "answer")
        return Features({name: ImageFeature(mode="RGB") if name == "image" else text for name in names})
    labels = List(Value("uint8"), length=GRID * GRID)
    texts = {name: List(text) for name in ("kinds", "questions", "answers")}
    return Features(
        {
            "id": text,
            "image": ImageFeature(mode="RGB"),
            "suite": text,
            **texts,
            "glyphs": labels,
            "colours": labels,
            "anchors": labels,
            "facts": List(text),
            "key": text,
        }
    )


def _write(rows: Sequence[dict[str, Any]], features: Features, path: Path) -> None:
    from datasets import Dataset
    from pyarrow import parquet

    columns = {name: [row[name] for row in rows] for name in features}
    data = Dataset.from_dict(columns, features=features)
    table = data.data.table.replace_schema_metadata(features.arrow_schema.metadata)
    with atomic_target(path) as temporary:
        # Not Dataset.to_parquet: it switches the dictionary off for images, and with a dictionary larger than the
        # default of 1 MB an image is stored once for all its questions.
        parquet.write_table(
            table, temporary, compression="zstd", compression_level=12, dictionary_pagesize_limit=1 << 28
        )


def path_of(suite: str, split: str, images: int, questions: int, seed: int, folder: Path | None = None) -> Path:
    """Where ``build`` puts one suite; by default under the user's folder."""
    place = folder or home() / f"micro-data-v{GENERATOR_VERSION}.{_COLUMNS}"
    return place / f"{suite}-{split}-{images}x{questions}-seed{seed}.parquet"


def build(
    split: str,
    images_per_suite: int,
    questions: int = 4,
    out_dir: Path | None = None,
    seed: int = 0,
    workers: int = 1,
    suites: Sequence[str] = SUITES,
) -> list[Path]:
    """Draw the scenes of each suite that is not there yet; one parquet file per suite, one row per image.

    Columns: id, image, suite, kinds, questions, answers (lists of equal length), glyphs, colours, anchors (144 class
    indices each, row by row), facts and key. About 5 kB and, with one worker, 5 ms (20 ms for a chart) an image.

    Raises:
        InputError: unknown split or suite, no images, a negative number, or nowhere to write.
    """
    if images_per_suite < 1:
        raise InputError(Problem("no images to draw", given=images_per_suite, allowed="1 or more"))
    paths = [path_of(suite, split, images_per_suite, questions, seed, out_dir) for suite in suites]
    missing = [(suite, path) for suite, path in zip(suites, paths, strict=True) if not path.exists()]
    if not missing:
        return paths
    features = _features(images=True)
    for suite, path in missing:
        bounds = range(0, images_per_suite, _CHUNK)
        tasks = [(suite, split, low, min(low + _CHUNK, images_per_suite), seed, questions) for low in bounds]
        _write([row for rows in _drawn(tasks, workers) for row in rows], features, path)
    return paths


def _drawn(tasks: list[tuple[str, str, int, int, int, int]], workers: int) -> Iterator[list[dict[str, Any]]]:
    if workers <= 1:
        yield from map(_image_rows, tasks)
        return
    # Spawned, not forked: the caller may have started torch's threads.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_image_rows, tasks)


def load(
    split: str,
    images_per_suite: int,
    questions: int = 4,
    *,
    suites: Sequence[str] = SUITES,
    seed: int = 0,
    workers: int = 1,
    folder: Path | None = None,
) -> Dataset:
    """The scenes of ``suites`` one after the other, as ``build`` describes them; built first where missing.

    Raises:
        InputError: as ``build``, or a file that cannot be read.
    """
    import pyarrow
    from datasets import Dataset, concatenate_datasets
    from datasets.table import InMemoryTable
    from pyarrow import parquet

    paths = build(split, images_per_suite, questions, folder, seed, workers, suites)
    parts = []
    for path in paths:
        try:
            # Not Dataset.from_parquet: it would keep a second copy in its own cache.
            parts.append(Dataset(InMemoryTable(parquet.read_table(path))))
        except (pyarrow.ArrowException, OSError) as error:
            hint = "Delete it: it is drawn again when it is needed."
            raise InputError(Problem(f"damaged data file: {error}", file=str(path), hint=hint)) from error
    return concatenate_datasets(parts)


def write_test_sets(out: Path) -> list[Path]:
    """Write ``<suite>_test.parquet`` of all suites into ``out``: one row per question, columns as in the tasks.

    256 images with 2 questions each; always the same scenes.
    """
    paths: list[Path] = []
    for suite in SUITES:
        drawn = (scene(suite, "test", index, questions=TEST_QUESTIONS) for index in range(TEST_IMAGES))
        path = out / f"{suite}_test.parquet"
        _write([row for one in drawn for row in _question_rows(one)], _features(images=False), path)
        paths.append(path)
    return paths
