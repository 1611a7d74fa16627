"""Cards are made from what a run and a checkpoint's manifest say, and from nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.report.fixture_run import make_records, write_run
from vr_eval.cli import main
from vr_eval.errors import InputError
from vr_eval.publish.card import flat, model_card, shown
from vr_eval.publish.chosen import choose
from vr_eval.publish.push import card_of
from vr_eval.reporting import run_table

SHIPPED = {"avg_pool 1/4": "f4f24505b224216d", "avg_pool 1/4 + vision_remember": "7e4eaf76afdb7964"}


@pytest.fixture(scope="session")
def shipped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up run, some of whose cells have checkpoints that come with the project."""
    records = make_records()
    records["checkpoint_id"] = records["label"].map(SHIPPED).fillna(records["checkpoint_id"])
    return write_run(tmp_path_factory.mktemp("runs") / "projectors", records, images=False)


def metadata(card: str) -> dict[str, Any]:
    start, content, _ = card.split("---\n", 2)
    assert start == ""
    return dict(yaml.safe_load(content))


def test_a_card_tells_of_the_run_and_of_the_checkpoint(shipped_run: Path) -> None:
    chosen = choose(shipped_run, "avg_pool 1/4 + vision_remember")
    assert chosen.id == SHIPPED["avg_pool 1/4 + vision_remember"]
    card = model_card(chosen, "me/remember", "apache-2.0")
    assert model_card(choose(shipped_run, chosen.id), "me/remember", "apache-2.0") == card
    table = run_table(shipped_run)
    place = [row.label for row in table.rows].index("avg_pool 1/4 + vision_remember")
    scores = {
        column.title: table.column(column.key)[place].estimate
        for column in table.columns
        if column.key == "average" or column.key.startswith("suite:")
    }
    known = metadata(card)
    results = {one["dataset"]["name"]: one["metrics"] for one in known["model-index"][0]["results"]}
    assert set(results) == set(scores)
    for name, estimate in scores.items():
        assert estimate is not None
        assert results[name] == [
            {"type": "score", "name": "avg_pool 1/4 + vision_remember", "value": round(estimate.value, 1)}
        ]
    assert known["tags"] == ["vr-eval", "avg_pool", "vision_remember"]
    assert "base_model" not in known
    assert "`20260101-" not in card
    assert "`20261123-101500-7f3a`" in card
    assert chosen.manifest["identity"]["weights"] in card
    assert all(line.count("|") == table_line.count("|") for line, table_line in zip(*_rows(card), strict=True))


def _rows(card: str) -> tuple[list[str], list[str]]:
    """The lines of each table beside its head, marks that were taken in left out."""
    lines, heads, head = [], [], ""
    for line in card.replace("\\|", "").splitlines():
        if line.startswith("|"):
            head = head or line
            lines.append(line)
            heads.append(head)
        else:
            head = ""
    assert len(set(heads)) == 3
    return lines, heads


def test_a_checkpoint_alone_has_no_scores() -> None:
    card = card_of(SHIPPED["avg_pool 1/4"], "me/pool")
    assert "## Scores" not in card
    assert "model-index" not in metadata(card)
    assert metadata(card)["license"] == "apache-2.0"


def test_base_models_and_licences(shipped_run: Path) -> None:
    chosen = choose(shipped_run, "avg_pool 1/4")
    manifest = {**chosen.manifest, "sources": {"openai/clip-vit-large-patch14-336@main": "ab" * 20}}
    object.__setattr__(chosen, "manifest", manifest)
    card = model_card(chosen, "me/pool", "other")
    assert metadata(card)["base_model"] == ["openai/clip-vit-large-patch14-336"]
    assert f"commit `{'ab' * 20}`" in card


def test_what_cannot_be_published(shipped_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="say which checkpoint"):
        choose(shipped_run)
    with pytest.raises(InputError, match="did you mean 'avg_pool 1/4'"):
        choose(shipped_run, "avg_pool 1/5")
    with pytest.raises(InputError, match="is not on this machine"):
        choose(shipped_run, "mlp")
    with pytest.raises(InputError, match="no complete checkpoint here"):
        choose(tmp_path / "none")
    records = pd.read_parquet(shipped_run / "records.parquet").assign(weights="random")
    with pytest.raises(InputError, match="random weights"):
        choose(write_run(tmp_path / "random", records, images=False), "avg_pool 1/4")
    assert main(["push", str(shipped_run), "me/pool", "--cell", "avg_pool 1/4", "--card"]) == 0
    assert "# avg\\_pool 1/4" in capsys.readouterr().out


def test_foreign_text_stays_text() -> None:
    assert shown("a|b <script> `x`\n# y") == "a\\|b \\<script\\> \\`x\\` \\# y"
    assert shown("/home/somebody/data.json") == "data.json"
    assert dict(flat({"a": {"b": [1, 2], "c": None}, "d": 1})) == {"a.b": "[1, 2]", "d": 1}


@pytest.mark.parametrize("repo", ["pool", "me/", "/pool", "me/pool/x", "me/a b"])
def test_a_card_is_of_a_repository(repo: str) -> None:
    with pytest.raises(InputError, match="this names no repository"):
        card_of(SHIPPED["avg_pool 1/4"], repo)
