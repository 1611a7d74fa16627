"""Small data with the columns of the official datasets, in the layout of the hub, with answers whose scores are known.

Every case is what a task's own functions are asked to score: some answers right, some wrong, some in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from PIL import Image

from vr_eval.catalog.official_tasks import OFFICIAL, packaged_files
from vr_eval.catalog.tasks import part_configs, task_fields

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One task: its rows, one answer per row, and what must come out.

    Attributes:
        task: Official name.
        rows: Of the test split.
        answers: What the model says.
        scores: Per question (those that are scored together are one), 0 to 1.
        points: Of the task.
        official: lmms-eval's own metrics in points, where they differ from `points`.
        images: Rows of the configuration that holds the images, where they are apart.
    """

    task: str
    rows: list[Row]
    answers: list[str]
    scores: list[float]
    points: float
    official: dict[str, float] = field(default_factory=dict)
    images: list[Row] = field(default_factory=list)


def picture(shade: int = 0) -> Image.Image:
    return Image.new("RGB", (12, 10), (shade % 256, 40, 90))


def _vqa(question: str, *answers: str) -> Row:
    return {"question": question, "image": picture(len(question)), "answers": list(answers)}


def _options(answer: str, *texts: str) -> Row:
    letters = dict.fromkeys("ABCD", "nan") | dict(zip("ABCD", texts, strict=False))
    return {"answer": answer, **letters}


def _mmbench(index: int, answer: str, *texts: str) -> Row:
    row = {"index": index, "question": f"what is {index % 1000000}?", "hint": "nan", "image": picture(), "source": "x"}
    return row | {"category": "ocr", "L2-category": "fine", "comment": "", "split": "dev"} | _options(answer, *texts)


def _mme(image: str, category: str, answer: str) -> Row:
    question = f"Is there a dog in {image}? Please answer yes or no."
    return {"question_id": image, "image": picture(), "question": question, "answer": answer, "category": category}


def _pope(number: int, answer: str) -> Row:
    row = {"id": str(number), "question_id": str(number), "question": "Is there a dog?", "answer": answer}
    return row | {"image_source": "COCO_1", "image": picture(), "category": "random"}


def _seed(number: int, answer: str, kind: str = "image") -> Row:
    choices = {f"choice_{letter}": letter * 3 for letter in "abcd"}
    row = {"question_id": str(number), "question": "What is it?", "answer": answer, "data_type": kind, "data_id": "x"}
    return row | choices | {"image": [picture(number)] * (2 if kind == "video" else 1), "question_type_id": 1}


def _mmstar(number: int, answer: str, category: str, second: str) -> Row:
    question = "What?\nOptions: A: one, B: two, C: three, D: four"
    row = {"index": number, "question": question, "image": picture(), "answer": answer}
    return row | {"category": category, "l2_category": second, "meta_info": {"source": "x"}}


def mmmu(name: str, question: str, options: list[str], answer: str, kind: str = "multiple-choice") -> Row:
    images: Row = {f"image_{number}": picture(number) if number == 1 else None for number in range(1, 8)}
    row = {"id": name, "question": question, "options": str(options), "answer": answer, "question_type": kind}
    return row | images


def _mmvp(index: int, answer: str) -> Row:
    options = "(a) Open (b) Closed"
    return {"Index": index, "Question": "Is it?", "Options": options, "Correct Answer": answer, "image": picture(index)}


def _cv(number: int, answer: str) -> Row:
    row = {"idx": number, "type": "2D", "task": "Count", "image": picture(), "question": "How many?", "source": "COCO"}
    return row | {"choices": ["1", "2"], "answer": answer, "prompt": "How many?\n(A) 1\n(B) 2"}


def _blink(number: int, part: str) -> Row:
    images: Row = {f"image_{n}": picture(n) if n <= 1 + number % 2 else None for n in range(1, 5)}
    row = {"idx": f"val_{part}_1", "question": "Which?", "sub_task": part, "choices": ["one", "two"], "answer": "(B)"}
    return row | images | {"prompt": f"Which of {part}?\n(A) one\n(B) two"}


def _vstar(number: int, label: str, category: str) -> Row:
    text = "What colour is the dog? (A) red (B) blue (C) green (D) black"
    return {"question_id": str(number), "image": picture(), "text": text, "category": category, "label": label}


def _charxiv(number: int) -> Row:
    row: Row = {"figure_path": f"images/{number}.jpg", "image": picture(number), "subplot_loc": "", "subplot_row": 0}
    row |= {"subplot_col": 0, "reasoning_q": "How many?", "reasoning_a": "7", "reasoning_q_source": 1}
    for part in range(1, 5):
        row |= {f"descriptive_q{part}": 1, f"descriptive_a{part}": "Loss"}
    return row


PARTS = part_configs("blink")

CASES = (
    Case(
        "textvqa_val",
        [
            {"question_id": 1, "image_id": "a", "ocr_tokens": ["COKE"]} | _vqa("what brand?", *["coke"] * 10),
            {"question_id": 2, "image_id": "a", "ocr_tokens": []} | _vqa("colour?", *["red"] * 3, *["blue"] * 7),
            {"question_id": 3, "image_id": "b", "ocr_tokens": []} | _vqa("number?", *["12"] * 10),
        ],
        ["Coke.", "red", "13"],
        [1, 0.9, 0],
        100 * 1.9 / 3,
    ),
    Case(
        "ocrbench",
        [
            {"dataset": name, "question": "what is written?", "question_type": kind, "answer": [answer]}
            | {"image": picture()}
            for name, kind, answer in (
                ("IIIT5K", "Regular Text Recognition", "CENTRE"),
                ("HME100k", "Handwritten Mathematical Expression Recognition", "x ^ 2"),
                ("docVQA", "Doc-oriented VQA", "17 May"),
            )
        ],
        ["The word is Centre", "x^2", "18 May"],
        [1, 1, 0],
        100 * 2 / 3,
        {"ocrbench_accuracy": 100 * 2 / 1000},  # of its thousand questions
    ),
    Case(
        "chartqa",
        [
            {"type": kind, "question": "how much?", "answer": answer, "image": picture()}
            for kind, answer in (("human_test", "100"), ("augmented_test", "Yes"), ("human_test", "20"))
        ],
        ["104", "yes", "30"],
        [1, 1, 0],
        100 * 2 / 3,
    ),
    Case(
        "docvqa_val",
        [
            {"questionId": str(n), "docId": 4, "question_types": ["form"], "data_split": "val"} | _vqa("who?", *answers)
            for n, answers in enumerate((["University of California"], ["abcd", "zzzz"], ["1999"]))
        ],
        ["university of california", "abcf", "2004"],
        [1, 0.75, 0],
        100 * 1.75 / 3,
    ),
    Case(
        "infovqa_val",
        [
            {"questionId": str(n), "answer_type": ["x"], "data_split": "val", "ocr": ""} | _vqa("which?", answer)
            for n, answer in enumerate(("42%", "facebook"))
        ],
        ["42%", "instagram"],
        [1, 0],
        50,
    ),
    Case(
        "ai2d",
        [
            {
                "question": "which part?",
                "options": ["root", "leaf", "stem", "bud"],
                "answer": str(n),
                "image": picture(),
            }
            for n in (1, 2, 3)
        ],
        ["B. leaf", "C", "A"],
        [1, 1, 0],
        100 * 2 / 3,
    ),
    Case(
        "gqa",
        [
            {"id": str(n), "imageId": image, "question": "is it red?", "answer": answer, "fullAnswer": answer}
            for n, image, answer in ((1, "n1", "yes"), (2, "n2", "no"), (3, "n1", "table"))
        ],
        ["Yes.", "yes", "table"],
        [1, 0, 1],
        100 * 2 / 3,
        images=[{"id": "n1", "image": picture(1)}, {"id": "n2", "image": picture(2)}],
    ),
    Case(
        "realworldqa",
        [{"question": "Which way?\nA. left\nB. right", "answer": a, "image": picture()} for a in ("B", "A", "3")],
        ["B. right", "B", "3."],
        [1, 0, 1],
        100 * 2 / 3,
    ),
    Case(
        "scienceqa_img",
        [
            {"image": picture(), "question": "Which?", "choices": ["x", "y"], "answer": answer, "hint": hint}
            for answer, hint in ((0, ""), (1, "Look."), (1, ""))
        ],
        ["a", "B. y", "The answer is B"],
        [1, 1, 0],
        100 * 2 / 3,
    ),
    Case(
        "vizwiz_vqa_val",
        [
            {"question_id": f"v{n}", "category": "other"} | _vqa("what is this?", *answers)
            for n, answers in enumerate((["unanswerable"] * 10, ["can"] * 2 + ["tin"] * 8))
        ],
        ["Unanswerable", "can"],
        [1, (2 * 1 / 3 + 8 * 2 / 3) / 10],
        50 + 50 * (2 * 1 / 3 + 8 * 2 / 3) / 10,
    ),
    Case(
        "vqav2_val",
        [
            {"question_id": n, "image_id": 9, "question": "what?", "image": picture(), "multiple_choice_answer": answer}
            | {"answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": i} for i in range(10)]}
            for n, answer in enumerate(("2", "net"))
        ],
        ["two", "the ball"],
        [1, 0],
        50,
    ),
    Case(
        "mmbench_en_dev_static",
        [
            _mmbench(1, "A", "dog", "cat"),
            _mmbench(2, "B", "dog", "cat"),
            _mmbench(3, "C", "dog", "cat", "owl", "bat"),
            _mmbench(1_000_001, "B", "cat", "dog"),
            _mmbench(1_000_002, "A", "cat", "dog"),
        ],
        ["A", "B", "an owl", "B. dog", "B"],
        [1, 0, 1],
        100 * 2 / 3,
    ),
    Case(
        "mme",
        [
            _mme("a.jpg", "existence", "Yes"),
            _mme("a.jpg", "existence", "No"),
            _mme("b.jpg", "existence", "Yes"),
            _mme("b.jpg", "existence", "No"),
            _mme("c.png", "code_reasoning", "Yes"),
            _mme("c.png", "code_reasoning", "No"),
        ],
        ["yes", "No.", "Yes", "yes, it is", "no", "Yes"],
        [1, 0.25, 0],  # both right: 100 + 100 of 200; one right: 50 + 0
        100 * (0.625 + 0) / 2,
        {"mme_perception_score": 100 * 125 / 2000, "mme_cognition_score": 0},
    ),
    Case(
        "pope",
        [_pope(1, "yes"), _pope(2, "no"), _pope(3, "yes"), _pope(4, "no")],
        ["Yes", "no", "Yes.", "yes"],  # "Yes." is wrong to the official function
        [1, 1, 0, 0],
        50,
        {"pope_accuracy": 50, "pope_f1_score": 100 * 2 / 3},  # precision 1/2; it is no missed "yes" either
    ),
    Case(
        "seedbench",
        [_seed(1, "A"), _seed(2, "B", "video"), _seed(3, "C"), _seed(4, "D")],
        ["A. aaa", "c", "D"],
        [1, 1, 1],
        100,
    ),
    Case(
        "mmstar",
        [
            _mmstar(0, "A", "math", "geometry"),
            _mmstar(1, "B", "math", "geometry"),
            _mmstar(2, "C", "coarse perception", "image emotion"),
        ],
        ["A", "C", "(C)"],
        [1, 0, 1],
        100 * (0.5 + 1) / 2,
    ),
    Case(
        "mmmu_val",
        [
            mmmu("validation_Art_1", "Who painted <image 1>?", ["Monet", "Klee"], "B"),
            mmmu("validation_Math_2", "What is <image 1>?", [], "12", "open"),
            mmmu("validation_Math_3", "Which is <image 1>?", ["1", "2"], "A"),
        ],
        ["B", "The answer is 12", "(B)"],
        [1, 1, 0],
        100 * 0.66667,  # the official function rounds to five digits
    ),
    Case(
        "mmvp",
        [_mmvp(1, "(a)"), _mmvp(2, "(b)"), _mmvp(3, "(a)"), _mmvp(4, "(b)")],
        ["A", "B", "(a)", "A"],
        [1, 1, 1, 0],
        75,
        {"mmvp_accuracy": 75, "mmvp_pair_accuracy": 50},
    ),
    Case("cv_bench", [_cv(1, "(A)"), _cv(2, "(B)")], ["(A)", "A"], [1, 0], 50),
    Case(
        "blink",
        [_blink(number, part) for number, part in enumerate(PARTS)],
        ["The correct answer is (B).", "A"] * (len(PARTS) // 2),
        [1, 0] * (len(PARTS) // 2),
        50,
    ),
    Case(
        "vstar_bench",
        [_vstar(1, "A", "direct_attributes"), _vstar(2, "B", "relative_position")],
        ["A. red", "C"],
        [1, 0],
        50,
    ),
    Case("charxiv_val_reasoning", [_charxiv(1), _charxiv(2)], ["7", "8"], [1, 0], 50, {"reasoning_acc": -1}),
    Case(
        "charxiv_val_descriptive",
        [_charxiv(1), _charxiv(2)],
        ["Loss", "x", "Loss", "x", "x", "x", "Loss", "x"],
        [1, 0, 1, 0, 0, 0, 1, 0],
        37.5,
        {"descriptive_acc": -1},
    ),
)


def write_official(root: Path, case: Case, rows: list[Row] | None = None) -> None:
    """The data of a case under `root/data`, and a file under `root/tasks` that sends the packaged task there."""
    packaged = packaged_files()[case.task]
    fields, spec = task_fields(packaged), OFFICIAL[case.task]
    folder = root / "data" / case.task
    given = case.rows if rows is None else rows
    split, config = str(fields["test_split"]), fields.get("dataset_name")
    if spec.parts:
        parts = {name: [row for row in given if row["sub_task"] == name] for name in PARTS}
    else:
        parts = {config or "default": given} | ({spec.images: case.images} if spec.images else {})
    described = []
    for name, entries in parts.items():
        file = folder / name / f"{split}-0.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(entries).to_parquet(file)
        described.append({"config_name": name, "data_files": [{"split": split, "path": f"{name}/{file.name}"}]})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': described})}---\n")
    (root / "tasks").mkdir(exist_ok=True)
    redirected = {
        "include": str(packaged),
        "task": case.task,
        "dataset_path": str(folder),
        "dataset_kwargs": {"token": True, "cache_dir": str(root / "cache")},
        "metadata": {"version": 1},
    }
    (root / "tasks" / f"{case.task}.yaml").write_text(yaml.safe_dump(redirected))
