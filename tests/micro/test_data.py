"""The generated scenes: the same every time, apart between splits, answerable from the image and not without it."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from vr_eval import paths
from vr_eval.errors import InputError
from vr_eval.micro.data import COLOURS, GLYPHS, SPLITS, SUITES, Scene, build, generate, load, scene, store
from vr_eval.micro.data.scene import split_of

COMMITTED = paths.resource("tasks") / "vr_micro" / "data"
COLOUR_NAMES = ("", *COLOURS)
YES_NO = {"bar_compare", "exists"}


@cache
def scenes(suite: str, split: str) -> tuple[Scene, ...]:
    return tuple(generate(suite, split, 40, questions=20))


@cache
def committed(suite: str) -> list[dict[str, Any]]:
    return parquet.read_table(COMMITTED / f"{suite}_test.parquet").to_pylist()


def text_in(one: Scene, row: int, low: int = 0, high: int = 12) -> str:
    names = [GLYPHS[index] for index in one.glyphs[row, low:high]]
    return "".join(" " if name == "blank" else name for name in names)


@pytest.mark.parametrize("suite", SUITES)
def test_a_scene_depends_on_nothing_but_its_own_number(suite: str) -> None:
    alone = scene(suite, "train", 2, questions=2)
    among = list(generate(suite, "train", 3, questions=4))[2]
    assert alone.image.tobytes() == among.image.tobytes()
    assert alone.questions == among.questions[:2]
    assert (alone.glyphs == among.glyphs).all()
    assert (alone.colours == among.colours).all()
    other = scene(suite, "train", 2, seed=1)
    assert other.key != alone.key


@pytest.mark.parametrize("suite", SUITES)
def test_splits_share_neither_content_nor_pixels(suite: str) -> None:
    keys = {split: {one.key for one in scenes(suite, split)} for split in SPLITS}
    pixels = {split: {one.image.tobytes() for one in scenes(suite, split)} for split in SPLITS}
    pixels["test"] |= {
        Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").tobytes() for row in committed(suite)
    }
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not keys[first] & keys[second]
        assert not pixels[first] & pixels[second]
    if suite != "ocr":
        assert all(split_of(one.key) == split for split in SPLITS for one in scenes(suite, split))


def test_no_code_of_a_test_image_can_be_drawn_for_training() -> None:
    for split in SPLITS:
        codes = {question.answer for one in scenes("ocr", split) for question in one.questions}
        assert {split_of(f"ocr:{code}") for code in codes} == {split}
    assert {split_of(f"ocr:{row['answer']}") for row in committed("ocr")} == {"test"}


@pytest.mark.parametrize("suite", SUITES)
def test_images_and_questions_have_the_agreed_form(suite: str) -> None:
    for one in scenes(suite, "train"):
        assert one.image.mode == "RGB"
        assert one.image.size == (192, 192)
        assert one.glyphs.shape == one.colours.shape == (12, 12)
        assert one.glyphs.dtype == one.colours.dtype == np.uint8
        assert one.glyphs.max() < len(GLYPHS)
        assert one.colours.max() <= len(COLOURS)
        assert ((one.glyphs == 0) == (one.colours == 0)).all()
        assert len(one.questions) >= 4
        for question in one.questions:
            assert question.question.isascii()
            assert len(question.question.split()) <= 12
            assert 1 <= len(question.answer) <= 8
            assert "{" not in question.question


@pytest.mark.parametrize("suite", SUITES)
def test_labelled_patches_stand_out_from_the_background(suite: str) -> None:
    for one in scenes(suite, "train"):
        pixels = np.asarray(one.image, dtype=int).reshape(12, 16, 12, 16, 3).transpose(0, 2, 1, 3, 4)
        contrast = np.ptp(pixels.reshape(12, 12, 256, 3), axis=2).max(axis=-1)
        text = (one.glyphs > 0) & (one.glyphs < GLYPHS.index("circle"))
        assert contrast[text].min(initial=255) >= 70, one.id


def test_ocr_answers_can_be_read_off_the_labels() -> None:
    for one in scenes("ocr", "train"):
        for question in one.questions:
            words = question.question.rstrip("?.").split()
            if question.kind == "ocr_colour":
                colour = next(word for word in words if word in COLOURS)
                found = one.glyphs[one.colours == COLOUR_NAMES.index(colour)]
                assert "".join(GLYPHS[index] for index in found) == question.answer
            else:
                band, half = words[-2:]
                rows = {"top": range(3), "middle": range(4, 8), "bottom": range(9, 12)}[band]
                low = 0 if half == "left" else 6
                found_texts = [text_in(one, row, low, low + 6).strip() for row in rows]
                assert [text for text in found_texts if text] == [question.answer]


def test_chart_answers_can_be_read_off_the_labels() -> None:
    seen = set()
    for one in scenes("chart", "train"):
        letters = text_in(one, 11)
        for question in one.questions:
            words = question.question.rstrip("?").split()
            colour = next((COLOUR_NAMES.index(word) for word in words if word in COLOURS), None)
            if question.kind == "pie_share":
                digits = one.glyphs[(one.colours == colour) & (one.glyphs <= 10)]
                assert "".join(GLYPHS[index] for index in digits) == question.answer
            elif question.kind in ("bar_value", "bar_colour", "line_value", "line_colour"):
                here = one.glyphs == GLYPHS.index("marker" if question.kind.startswith("line") else "bar_top")
                if colour is not None:
                    here &= one.colours == colour
                named = [word for word in words if word in letters and len(word) == 1 and word.isupper()]
                if named:
                    here[:, [column for column in range(12) if letters[column] != named[-1]]] = False
                rows = np.argwhere(here)[:, 0]
                assert [str(10 - row) for row in rows] == [question.answer]
            else:
                continue
            seen.add(question.kind)
    assert seen == {"pie_share", "bar_value", "bar_colour", "line_value", "line_colour"}


def test_pie_shares_add_up_to_100() -> None:
    for one in scenes("chart", "train"):
        shares = {q.question: int(q.answer) for q in one.questions if q.kind == "pie_share"}
        assert not shares or sum(shares.values()) == 100


def test_doc_answers_are_printed_beside_what_is_asked_for() -> None:
    for one in scenes("doc", "train"):
        lines = [text_in(one, row) for row in range(12)]
        for question in one.questions:
            words = question.question.rstrip("?").split()
            if question.kind == "receipt_shop":
                assert question.answer in [line.strip() for line in lines]
                continue
            if question.kind == "receipt_total":
                line = next(line for line in lines if line.startswith("TOTAL"))
            else:
                asked = [word.upper() for word in words]
                line = next(line for line in lines if line.split(" ")[0] in asked)
            assert question.answer in line.split(), (one.id, question)
            if question.kind == "table_cell":
                head = next(text for text in lines if text.strip())
                name = next(word.upper() for word in words if word.upper() in head.split())
                assert line[head.index(name) :].startswith(question.answer)


def test_receipts_add_up() -> None:
    for one in scenes("doc", "train"):
        totals = [question.answer for question in one.questions if question.kind == "receipt_total"]
        prices = [float(question.answer) for question in one.questions if question.kind == "receipt_price"]
        assert not totals or float(totals[0]) == pytest.approx(sum(prices))


def test_general_answers_agree_with_the_objects_drawn() -> None:
    for one in scenes("general", "train"):
        things = [part.split(",")[:2] for part in one.key.split("|")[1:]]
        shown = {(GLYPHS[g], COLOUR_NAMES[c]) for g, c in zip(one.glyphs.flat, one.colours.flat, strict=True) if g}
        assert shown == {(shape, colour) for shape, colour in things}
        for question in one.questions:
            words = question.question.rstrip("?.").split()
            named = [thing for thing in things if thing[1] in words or any(w.startswith(thing[0]) for w in words)]
            if question.kind.startswith("count"):
                assert question.answer == str(len(named))
            elif question.kind == "exists":
                assert question.answer == ("yes" if list(words[-1:-3:-1]) in things else "no")
                assert "a orange" not in question.question
            elif question.kind in ("colour_of", "shape_of"):
                assert [question.answer in thing for thing in named] == [True]


def test_every_object_has_one_patch_at_which_it_is_counted() -> None:
    for one in scenes("general", "train"):
        assert one.anchors.sum() == len(one.key.split("|")) - 1
        assert set(one.anchors.flat) <= {0, 1}
    assert not any(one.anchors.any() for suite in ("ocr", "chart", "doc") for one in scenes(suite, "train"))


_LOOKED_UP = {
    "ocr": ("ocr_colour", "ocr_place"),
    "chart": ("bar_value", "bar_colour", "line_value", "line_colour", "pie_share"),
    "doc": ("form_field", "table_cell", "receipt_price", "receipt_total", "receipt_shop"),
    "general": ("count_shape", "count_colour"),
}


@pytest.mark.parametrize("suite", SUITES)
def test_facts_answer_what_the_questions_look_up(suite: str) -> None:
    asked = 0
    for one in scenes(suite, "train"):
        facts = [(set(words[:-1]), words[-1]) for words in (fact.split() for fact in one.facts)]
        assert len({frozenset(names) for names, _ in facts}) == len(facts)
        for question in one.questions:
            if question.kind not in _LOOKED_UP[suite]:
                continue
            # Plurals and the words of a question around what it looks up.
            words = question.question.rstrip("?.").split()
            words += [word.removesuffix("es") for word in words] + [word.removesuffix("s") for word in words]
            named = [value for names, value in facts if names <= {*words, "total" if "pay" in words else ""}]
            if question.answer != "0":  # not every absent shape and colour is listed
                assert question.answer in named, (one.id, question)
                asked += 1
    assert asked > 20


@pytest.mark.parametrize("suite", SUITES)
def test_the_committed_test_set_is_what_the_generator_draws(suite: str) -> None:
    rows = committed(suite)
    assert len(rows) == store.TEST_IMAGES * store.TEST_QUESTIONS >= 500
    assert list(rows[0]) == ["id", "image", "image_id", "suite", "kind", "question", "answer"]
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["suite"] for row in rows} == {suite}
    for index in (0, 1, 100, 255):
        drawn = scene(suite, "test", index, questions=store.TEST_QUESTIONS)
        mine = [row for row in rows if row["image_id"] == drawn.id]
        assert [(row["kind"], row["question"], row["answer"]) for row in mine] == [
            (question.kind, question.question, question.answer) for question in drawn.questions
        ]
        stored = np.asarray(Image.open(io.BytesIO(mine[0]["image"]["bytes"])).convert("RGB"), dtype=int)
        # Another version of freetype or of matplotlib may smooth an edge differently, and nothing else.
        assert np.abs(stored - np.asarray(drawn.image, dtype=int)).mean() < 1.0


@pytest.mark.parametrize("suite", SUITES)
def test_committed_files_stay_small(suite: str) -> None:
    assert (COMMITTED / f"{suite}_test.parquet").stat().st_size < 1_200_000


@pytest.mark.parametrize("suite", SUITES)
def test_no_answer_dominates_its_kind(suite: str) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in committed(suite):
        answers[row["kind"]][row["answer"]] += 1
    for kind, counts in answers.items():
        share = counts.most_common(1)[0][1] / counts.total()
        # Three standard errors above 50 % and 35 %, since a kind has only some thirty questions here.
        limit = 0.5 if kind in YES_NO else 0.35
        assert share <= limit + 3 * (limit * (1 - limit) / counts.total()) ** 0.5, (kind, counts.most_common(3))


def test_a_cached_set_is_built_once_and_read_back(tmp_path: Path) -> None:
    paths_ = build("train", 3, 4, tmp_path, suites=("ocr", "general"))
    stamps = [path.stat().st_mtime_ns for path in paths_]
    data = load("train", 3, 4, suites=("ocr", "general"), folder=tmp_path)
    assert [path.stat().st_mtime_ns for path in paths_] == stamps
    drawn = [*generate("ocr", "train", 3), *generate("general", "train", 3)]
    assert data["id"] == [one.id for one in drawn]
    for row, one in zip(data, drawn, strict=True):
        assert row["image"].tobytes() == one.image.tobytes()
        assert row["answers"] == [question.answer for question in one.questions]
        assert row["glyphs"] == one.glyphs.ravel().tolist()
        assert row["colours"] == one.colours.ravel().tolist()


def test_workers_draw_the_same_file(tmp_path: Path) -> None:
    (alone,) = build("train", 65, 4, tmp_path / "one", suites=("ocr",))
    (shared,) = build("train", 65, 4, tmp_path / "two", suites=("ocr",), workers=2)
    assert alone.read_bytes() == shared.read_bytes()


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parquet, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build("train", 2, 4, tmp_path, suites=("ocr",))
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_cache_names_the_file(tmp_path: Path) -> None:
    (path,) = build("train", 2, 4, tmp_path, suites=("ocr",))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="ocr-train"):
        load("train", 2, 4, suites=("ocr",), folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("orc", "train", 0, 0), "ocr"),
        (("ocr", "tests", 0, 0), "test"),
        (("ocr", "train", 0, -1), "seed"),
        (("ocr", "train", -1, 0), "index"),
    ],
)
def test_bad_requests_are_user_errors(arguments: tuple[str, str, int, int], word: str) -> None:
    suite, split, index, seed = arguments
    with pytest.raises(InputError, match=word):
        scene(suite, split, index, seed=seed)
