"""The feature store: shared by cells, resumed shard by shard, never stale or damaged without a word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.probes.conftest import Noise
from vr_eval.errors import InputError
from vr_eval.models.lvlm import LVLM
from vr_eval.probes import extract as module
from vr_eval.probes import store
from vr_eval.probes.extract import Extracted, Subject, extract
from vr_eval.probes.keys import tap_keys
from vr_eval.probes.store import TapStore
from vr_eval.probes.taps import taps_of
from vr_eval.testing.tiny import tiny_lvlm

Made = Callable[..., Subject]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (store, module):
        monkeypatch.setattr(place, "SHARD", 4)


def read(subject: Subject, folder: Path, split: Noise, batch_size: int = 3) -> Extracted:
    (found,) = extract([subject], split, [taps_of(subject.model)], ["mean"], folder, batch_size)
    return found


def keys(model: LVLM, subject: Subject, images: str = "a") -> dict[str, str]:
    return tap_keys(model, subject.processor.image_processor, subject.prompt, images)


def test_the_batch_size_changes_no_feature(subject: Made, tmp_path: Path) -> None:
    asked = subject(tiny_lvlm("avg_pool", 4, "vision_remember"))
    one, four = (read(asked, tmp_path / str(size), Noise(9), size) for size in (1, 4))
    for place, features in one.features.items():
        np.testing.assert_allclose(features, four.features[place], atol=1e-5, rtol=1e-4)


def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(subject: Made, tmp_path: Path) -> None:
    class Broken(Noise):
        def image(self, index: int):  # type: ignore[no-untyped-def]
            if index == 6:
                raise KeyboardInterrupt
            return super().image(index)

    asked = subject(tiny_lvlm("avg_pool", 4))
    with pytest.raises(KeyboardInterrupt):
        read(asked, tmp_path / "a", Broken(9))
    again = Noise(9)
    resumed = read(asked, tmp_path / "a", again)
    assert sorted(again.seen) == [4, 5, 6, 7, 8]
    whole = read(asked, tmp_path / "b", Noise(9))
    for place, features in whole.features.items():
        assert features.tobytes() == resumed.features[place].tobytes()


def test_cells_share_what_stands_before_their_difference(subject: Made, tmp_path: Path) -> None:
    plain, pruned = tiny_lvlm("mlp", 1), tiny_lvlm("mlp", 1, free="fastv", keep_ratio=0.5)
    a, b = (keys(model, subject(model)) for model in (plain, pruned))
    same = [tap for tap in b if a.get(tap) == b[tap]]
    assert same == [f"tower.{i}" for i in range(5)] + ["tower.out", "projector", "decoder.0", "decoder.1"]
    # The projector of another ratio differs, and so does all behind it.
    c = keys(tiny_lvlm("avg_pool", 4), subject(tiny_lvlm("avg_pool", 4)))
    assert [tap for tap in c if a.get(tap) == c[tap]] == [f"tower.{i}" for i in range(5)] + ["tower.out"]


def test_what_is_shared_is_computed_once(subject: Made, tmp_path: Path) -> None:
    read(subject(tiny_lvlm("mlp", 1)), tmp_path, Noise(5))
    folders = set(tmp_path.iterdir())
    read(subject(tiny_lvlm("mlp", 1, free="fastv", keep_ratio=0.5)), tmp_path, Noise(5))
    new = [json.loads((path / "manifest.json").read_text())["tap"] for path in set(tmp_path.iterdir()) - folders]
    assert sorted(new) == ["decoder.1+pruning", "decoder.2", "decoder.3"]


def test_models_read_together_give_what_they_give_alone(subject: Made, tmp_path: Path) -> None:
    models = [tiny_lvlm("mlp", 1), tiny_lvlm("avg_pool", 4), tiny_lvlm("mlp", 1, free="downsample")]
    asked = [subject(model) for model in models]
    together = extract(asked, Noise(5), [taps_of(model) for model in models], ["mean"], tmp_path / "a", 2)
    for one, found in zip(asked, together, strict=True):
        alone = read(one, tmp_path / "b", Noise(5), batch_size=2)
        assert alone.keys == found.keys
        for place, features in alone.features.items():
            np.testing.assert_allclose(features, found.features[place], atol=1e-5)


def test_a_stored_run_opens_no_image_again(subject: Made, tmp_path: Path) -> None:
    asked = subject(tiny_lvlm("avg_pool", 4))
    read(asked, tmp_path, Noise(5))
    again = Noise(5)
    read(asked, tmp_path, again)
    assert again.seen == []


def test_everything_that_a_tap_depends_on_is_in_its_key(subject: Made) -> None:
    model = tiny_lvlm("avg_pool", 4, "vision_remember")
    asked = subject(model)
    before = keys(model, asked)
    assert all(key != before[tap] for tap, key in keys(model, asked, images="b").items())
    model.decoder.layers[2].mlp.gate_proj.weight.data[0, 0] += 1
    after = keys(model, asked)
    changed = [tap for tap, key in after.items() if key != before[tap]]
    assert changed[0] == "decoder.2"
    assert set(changed) == {tap for tap in before if tap >= "decoder.2"} - {tap for tap in before if tap[0] != "d"}
    model.vision_tower.encoder.layers[0].mlp.fc1.weight.data[0, 0] += 1
    assert all(key != before[tap] for tap, key in keys(model, asked).items())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", '{"key": "other", "rows": 5, "shard": 4, "width": 16}', "of another model or other images"),
        ("manifest.json", "{", "its manifest cannot be read"),
        ("manifest.json", '{"key": 1}', "its manifest cannot be read"),
        ("features.npy", "no array", "its array cannot be read"),
    ],
)
def test_a_stale_store_is_one_clear_error(name: str, content: str, message: str, subject: Made, tmp_path: Path) -> None:
    asked = subject(tiny_lvlm("avg_pool", 4))
    found = read(asked, tmp_path, Noise(5))
    folder = tmp_path / found.keys["projector", "mean"]
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read(asked, tmp_path, Noise(5))
    assert str(folder) in str(caught.value)
    assert "Delete this folder" in str(caught.value)


def test_a_damaged_shard_is_found_by_its_checksum(subject: Made, tmp_path: Path) -> None:
    asked = subject(tiny_lvlm("avg_pool", 4))
    found = read(asked, tmp_path, Noise(5))
    path = tmp_path / found.keys["decoder.0", "mean"] / "features.npy"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged \(shard 1\)"):
        read(asked, tmp_path, Noise(5))


def test_a_torn_line_costs_one_shard(tmp_path: Path) -> None:
    held = TapStore(tmp_path / "key", 6)
    held.write(0, np.ones((4, 2), dtype=np.float32))
    held.write(1, np.ones((2, 2), dtype=np.float32))
    lines = (tmp_path / "key" / "shards.jsonl").read_text()
    (tmp_path / "key" / "shards.jsonl").write_text(lines[:-10])
    assert TapStore(tmp_path / "key", 6).missing == [1]


def test_a_feature_that_is_not_finite_is_no_feature(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finite"):
        TapStore(tmp_path / "key", 2).write(0, np.array([[1.0], [np.nan]], dtype=np.float32))
