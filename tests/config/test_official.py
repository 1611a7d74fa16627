"""What is said of the official tasks agrees with the files of the installed lmms-eval."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vr_eval import paths
from vr_eval.catalog.official_tasks import OFFICIAL, SUITES, packaged_files
from vr_eval.catalog.tasks import part_configs, task_data, task_fields, task_files, task_version
from vr_eval.errors import InputError
from vr_eval.listing import list_tasks

TASKS = Path(__file__).parents[2] / "tasks"


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_packaged_file_defines_the_task_and_its_metrics(name: str) -> None:
    spec, fields = OFFICIAL[name], task_fields(packaged_files()[name])
    assert fields["task"] == (name if not spec.parts else "blink_art_style")
    listed = [entry["metric"] for entry in fields["metric_list"]]
    assert {metric.key for metric in spec.metrics} <= set(listed)
    filters = [entry["name"] for entry in fields.get("filter_list") or [{"name": "none"}]]
    assert {metric.pipeline for metric in spec.metrics} <= set(filters)


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_task_says_where_an_answer_ends(name: str) -> None:
    generation = (task_fields(packaged_files()[name]).get("generation_kwargs") or {}) | OFFICIAL[name].generation
    assert generation["until"]
    assert generation["max_new_tokens"]
    ours = OFFICIAL[name].generation.get("max_new_tokens")
    assert ours is None or "max_new_tokens" not in (task_fields(packaged_files()[name]).get("generation_kwargs") or {})


def test_no_suite_asks_a_judge() -> None:
    judged = {task.name for task in OFFICIAL.values() if task.judge}
    assert judged == {"charxiv_val_descriptive", "charxiv_val_reasoning"}
    assert judged.isdisjoint({task for tasks in SUITES.values() for task in tasks})
    assert sorted([*judged, *(task for tasks in SUITES.values() for task in tasks)]) == sorted(OFFICIAL)


@pytest.mark.parametrize("suite", SUITES)
def test_the_groups_for_plain_lmms_eval_say_the_same(suite: str) -> None:
    group = yaml.safe_load((TASKS / "official" / f"vr_official_{suite}.yaml").read_text())
    entries = {entry["task"] if isinstance(entry, dict) else entry: entry for entry in group["task"]}
    assert tuple(entries) == SUITES[suite]
    for name, entry in entries.items():
        packaged = task_fields(packaged_files()[name]).get("generation_kwargs") or {}
        # A missing `until` is lmms-eval's blank line.
        expected = {"until": ["\n\n"], **packaged, **OFFICIAL[name].generation}
        given = entry["generation_kwargs"] if isinstance(entry, dict) else {"until": ["\n\n"], **packaged}
        assert given == expected


def test_data_are_those_of_the_packaged_files() -> None:
    assert [(data.path, data.config) for data in task_data("docvqa_val")] == [("lmms-lab-encoder/DocVQA", "DocVQA")]
    assert [data.config for data in task_data("gqa")] == ["testdev_balanced_instructions", "testdev_balanced_images"]
    assert [data.config for data in task_data("blink")] == list(part_configs("blink"))
    assert len(part_configs("blink")) == 14
    assert all(data.on_hub for name in OFFICIAL for data in task_data(name))


def test_a_file_of_ones_own_redefines_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = task_version("mme")
    assert "lmms-eval 0.7" in packaged
    monkeypatch.setattr(paths, "resource", lambda name: tmp_path)
    own = tmp_path / "mme.yaml"
    own.write_text(f"include: {packaged_files()['mme']}\ntask: mme\ndataset_path: parquet\nmetadata: {{version: 7}}\n")
    assert task_files()["mme"] == own
    assert not task_data("mme")[0].on_hub
    assert task_version("mme") == f"7 ({packaged})"
    with pytest.raises(InputError, match="no file defines the task mmme"):
        task_version("mmme")


def test_every_task_is_listed() -> None:
    text = list_tasks()
    assert all(f"  {name}\n" in text for name in OFFICIAL)


def test_nothing_heavy_is_imported() -> None:
    check = "import sys, vr_eval.catalog.tasks; print({'torch', 'lmms_eval', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "set()"
