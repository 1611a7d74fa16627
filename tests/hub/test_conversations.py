"""Conversations on the hub: parquet in the columns of LLaVA-NeXT's data, and JSON, whose numbers never become text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hub.content import Repository
from tests.hub.server import serving
from tests.hub.tables import conversations
from tests.hub.world import World

READ = """
import json, sys
from vr_eval.catalog.recipe import StageData
from vr_eval.training.records import open_records
from vr_eval.training.typed import BrokenSample

records = open_records(StageData(sys.argv[1], None, None))
found = []
for row in range(len(records)):
    try:
        dialogue = records[row]
        sizes = [records.load(image).size for image in dialogue.images]
        found.append([records.name(row), dialogue.turns[0][1], len(sizes)])
    except BrokenSample as error:
        found.append([records.name(row), str(error)])
print(json.dumps(found))
"""


def line(name: Any, said: Any) -> str:
    turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": said}]
    return json.dumps({"id": name, "conversations": turns}) + "\n"


def talks(**files: str) -> Repository:
    repository = Repository("dataset", "me/talks")
    repository.commit({"README.md": "# Talks\n", **{f"{name}.jsonl": text for name, text in files.items()}})
    return repository


def read(world: World, name: str, **more: str) -> Any:
    done = world.python("-c", READ, name, **more)
    assert done.code == 0, done.err
    assert bool(done.asked) == ("HF_HUB_OFFLINE" not in more)
    return json.loads(done.out)


@pytest.mark.slow
def test_json_on_the_hub_is_read_as_json_here(tmp_path: Path) -> None:
    """The datasets library makes text of the numbers in `b`, as it has read text in `a`."""
    repository = talks(a=line(1, "this"), b=line("2", 7) + line(3, None) + line(4, "that"))
    first = next(iter(repository.commits))
    broken = "a turn says something that is no text"
    expected = [["1", "this", 0], ["2", broken], ["3", broken], ["4", "that", 0]]
    with serving(repository) as hub:
        world = World(tmp_path, hub)
        assert read(world, "me/talks") == expected
        assert read(world, "me/talks", HF_HUB_OFFLINE="1") == expected
        repository.commit({"README.md": "# Talks\n", "a.jsonl": line(1, "other"), "b.jsonl": line(2, "words")})
        assert read(world, "me/talks") == [["1", "other", 0], ["2", "words", 0]]
        assert read(world, f"me/talks@{first}") == expected


@pytest.mark.slow
def test_the_columns_of_llava_next_data_on_the_hub(tmp_path: Path) -> None:
    with serving(conversations()) as hub:
        found = read(World(tmp_path, hub), "lmms-lab/LLaVA-NeXT-Data")
    assert len(found) == 8
    assert {len(row) for row in found} == {3}
    assert {row[2] for row in found} == {0, 1}
