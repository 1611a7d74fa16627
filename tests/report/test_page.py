"""The page: one file that asks for nothing, runs nothing foreign, and is the same for the same run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from tests.report.fixture_run import CELLS, FakeCell, make_records, write_run
from vr_eval.errors import InputError
from vr_eval.reporting import build

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "br", "input", "link"}


class Page(HTMLParser):
    """Elements, their attributes and the text of scripts and styles; refuses elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.code: dict[str, list[str]] = {"script": [], "style": []}
        self.words: list[str] = []
        self.path: list[str] = []
        self.feed(text)
        assert self.path == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.path.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.path.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.path and self.path[-1] in self.code:
            self.code[self.path[-1]].append(data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def data(self) -> dict[str, list[dict[str, object]]]:
        return dict(json.loads(self.code["script"][0]))


def built(path: Path, records: pd.DataFrame, **options: object) -> Page:
    options = {"images": False} | options
    return Page(build(write_run(path / "run", records, **options)).read_text(encoding="utf-8"))  # type: ignore[arg-type]


def test_the_policy_allows_only_this_style_and_script(report: str) -> None:
    page = Page(report)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "Policy" in str(a.get("http-equiv")))
    for kind, code in (("style-src", page.code["style"][0]), ("script-src", page.code["script"][1])):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in str(policy)


def test_the_page_asks_no_network_and_has_no_inline_style_or_handler(report: str) -> None:
    for tag, attributes in Page(report).tags:
        assert tag not in ("link", "iframe", "object", "base", "form")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert str(attributes.get(name, "#")).startswith("#")
    assert "http://" not in report.replace("http://www.w3.org/", "")
    assert "https://" not in report


def test_ids_are_unique_and_every_reference_leads_to_one(report: str) -> None:
    tags = Page(report).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {str(a["href"])[1:] for _, a in tags if a.get("href")} | set(re.findall(r"url\(#([^)]+)\)", report))
    assert wanted <= set(ids)


def test_tables_are_real_tables_whose_headers_are_buttons_with_a_scope(report: str) -> None:
    tags = Page(report).tags
    headers = [attributes for tag, attributes in tags if tag == "th"]
    assert headers
    assert all(attributes.get("scope") in ("col", "row", "colgroup") for attributes in headers)
    assert sum(tag == "button" for tag, _ in tags) >= 14


def test_the_page_says_question_answer_source_and_citation(report: str) -> None:
    text = Page(report).text
    for words in (
        "Does looking again at the vision features help, whatever projector compressed them?",
        "Vision Remember adds 2.7 points on average (95 % interval +1.1 to +4.4) over the same projector without it, "
        "across 3 pairs.",
        "vr-eval run ablations/projectors.yaml",
        "relaxed_accuracy",
        "arXiv 2506.03928",
        "LLaVA-NeXT",
        "192 of 480 questions",
        "99.6 %",
    ):
        assert words in text


def test_the_same_run_gives_the_same_bytes(run_dir: Path, report: str) -> None:
    assert build(run_dir).read_text(encoding="utf-8") == report


def test_figures_take_their_colours_from_the_page(report: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", report, re.DOTALL))
    assert drawings.count("<svg") == 4
    assert not re.search(r'(fill|stroke)="#', drawings)
    assert "s-c0" in drawings


@pytest.mark.parametrize(("projector", "ratio", "tokens"), [("mlp", 1, 36), ("avg_pool", 4, 9)])
def test_the_ratio_of_a_pruned_row_stands_at_no_token_count(
    tmp_path: Path, projector: str, ratio: int, tokens: int
) -> None:
    records = make_records([*CELLS, FakeCell(projector, ratio, image="downsample")], per_task=12)
    records.loc[records.image != "none", "tokens"] = tokens
    text = built(tmp_path, records).text
    assert text.count("36 (1/4)") == 2  # once in each drawing
    assert " 9 (1/4)" not in text


def test_hostile_answers_are_shown_and_never_run(tmp_path: Path, records: pd.DataFrame) -> None:
    hostile = records.assign(
        answer=f"{EVIL}\x1b[31m\x00\u202e" + "A" * 5000,
        question="</script><b onclick=x>q</b><!--",
        target="' onerror=alert(1) \u2028",
        kind=records.kind + "</details>",
        label=EVIL + records.label,
        projector="<i>$\\frac{" + records.projector,
        suite=records.suite.replace("ocr", EVIL),
        cluster="../../etc/" + records.cluster,
    )
    hostile.loc[hostile.failure != "", "failure"] = EVIL
    grid = f"# {EVIL}?\nname: '{EVIL}'\n"
    page = built(tmp_path, hostile, grid=grid, images=True)
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 2
    assert {"b", "i"}.isdisjoint(names)
    assert len(page.data["images"]) > 50
    answer = page.data["samples"][0]["answers"][0]["text"]  # type: ignore[index]
    assert answer.startswith(f"{EVIL}⟨ESC⟩[31m⟨NUL⟩⟨U+202E⟩AAA")
    assert answer.endswith("… [cut: 5,032 characters in all]")
    assert not list(tmp_path.glob("etc/*"))


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (1, "Vision Remember adds 100.0 points"),
        (-1, "Vision Remember loses 100.0 points"),
        (0, "Vision Remember makes no difference that these 480 questions can show: 0.0 points"),
    ],
)
def test_the_answer_is_neutral_about_who_wins(tmp_path: Path, records: pd.DataFrame, gain: int, words: str) -> None:
    refused = (records.refusion != "none").astype(float)
    score = {1: refused, -1: 1 - refused, 0: refused * 0 + 1}[gain]
    assert words in built(tmp_path, records.assign(score=score, failure="")).text


def test_without_refusion_the_answer_is_about_compression(tmp_path: Path) -> None:
    page = built(tmp_path, make_records([cell for cell in CELLS if cell.refusion == "none"]))
    assert "Pixel shuffle 1/4 is the closest to the baseline of 3 rows: −" in page.text
    assert "with 36 of 144 tokens." in page.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("records.parquet", b"PAR1 truncated"),
        ("environment.json", b"{"),
        ("environment.json", b"[]"),
        ("report.yaml", b"columns: [avrage]\n"),
        ("report.yaml", b"cited:\n  - {source: x, tag: rumour}\n"),
        ("grid.yaml", b"\xff\xfe"),
    ],
)
def test_a_broken_file_is_an_input_error_that_names_it(
    tmp_path: Path, records: pd.DataFrame, name: str, content: bytes
) -> None:
    run = write_run(tmp_path / "run", records, images=False)
    (run / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        build(run)
    assert not (run / "report.html").exists()


def test_no_run_directory_and_no_results_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run directory"):
        build(tmp_path / "nowhere")
    with pytest.raises(InputError, match="without results"):
        build(tmp_path)


def test_missing_columns_and_scores_out_of_range_are_input_errors(tmp_path: Path, records: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="columns are missing: cluster, kind"):
        build(write_run(tmp_path / "a", records.drop(columns=["cluster", "kind"]), images=False))
    with pytest.raises(InputError, match="outside of their range"):
        build(write_run(tmp_path / "b", records.assign(score=records.score * 100), images=False))


def test_a_definition_in_the_run_directory_cites_a_users_own_figures(tmp_path: Path, records: pd.DataFrame) -> None:
    run = write_run(tmp_path / "run", records, images=False)
    (run / "report.yaml").write_text(
        "cited:\n- source: My reading of Table 2\n  tag: paper\n  backbone: other\n  measure: Score\n"
        "  figures: [{method: A, over: B, value: -1.25}]\n"
    )
    text = Page(build(run).read_text(encoding="utf-8")).text
    assert "My reading of Table 2" in text
    assert "LLaVA-NeXT" not in text
