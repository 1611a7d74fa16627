"""Times that can be compared, and the one that pruning is there for: a prefill that takes less of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig

from vr_eval.measure.memory import kv_cache_bytes, peak_bytes
from vr_eval.measure.timing import Times, decode_call, prefill_call, times
from vr_eval.models.config import LVLMConfig
from vr_eval.models.lvlm import LVLM
from vr_eval.testing.tiny import IMAGE, tiny_lvlm

CPU = torch.device("cpu")


def test_calls_take_turns_and_the_first_rounds_do_not_count() -> None:
    order: list[str] = []
    measured = times({name: lambda name=name: order.append(name) for name in "abc"}, CPU, repeats=3, warm_up=1)
    assert "".join(order) == "cbaabccbaabc"
    assert {name: len(found.rounds_ms) for name, found in measured.items()} == {"a": 3, "b": 3, "c": 3}


def test_times_are_milliseconds_and_one_slow_round_changes_no_median() -> None:
    naps = iter([0.0, 0.02, 0.3, 0.02, 0.02, 0.02])
    found = times({"nap": lambda: time.sleep(next(naps))}, CPU, repeats=5, warm_up=1)["nap"]
    assert 20 <= found.median_ms < 100


def test_a_ratio_compares_what_met_the_same_load() -> None:
    slower, faster = Times((2.0, 20.0, 4.0)), Times((1.0, 40.0, 2.0))
    assert slower.ratio_to(faster) == 2.0


def long_model(pruning: str, **options: Any) -> LVLM:
    """A Llama of 8 layers behind 24 x 24 vision tokens."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=48, patch_size=2
    )
    text = LlamaConfig(
        vocab_size=97,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        pad_token_id=0,
    )
    config = LVLMConfig(
        vision,
        text,
        projector="mlp",
        pruning=pruning,
        image_token_id=IMAGE,
        select_layer=-1,
        options={pruning: options},
    )
    return LVLM(config).eval()


@pytest.mark.parametrize("pruning", ["fastv", "random"])
def test_dropping_nine_of_ten_vision_tokens_early_shortens_the_measured_prefill(pruning: str) -> None:
    whole, fewer = long_model("none"), long_model(pruning, layer=1, keep_ratio=0.1)
    fewer.load_state_dict(whole.state_dict())
    assert whole.tokens_per_image == 576
    features = whole.encode_images(torch.randn(1, 3, 48, 48)).detach()
    ids = torch.cat([torch.full((1, 576), IMAGE), torch.randint(4, 97, (1, 64))], dim=1)
    given = {"vision_features": features, "use_cache": True, "logits_to_keep": 1}
    calls = {name: lambda m=m: m(ids, None, **given) for name, m in {"whole": whole, "fewer": fewer}.items()}
    measured = times(calls, CPU, repeats=9)
    # One layer of 640 tokens and seven of 122: a third of the operations. The margin is for a busy machine.
    assert measured["fewer"].ratio_to(measured["whole"]) < 0.75


def test_a_decode_step_goes_one_token_further_each_time() -> None:
    model = tiny_lvlm("mlp", 1, free="fastv", layer=2, keep_ratio=0.25)
    step = decode_call(model, text_tokens=10)
    lengths = []
    for _ in range(3):
        cache = step().past_key_values
        lengths.append([cache.get_seq_length(layer) for layer in (0, 3)])
    assert lengths == [[155, 47], [156, 48], [157, 49]]


def test_a_prefill_ends_with_the_logits_of_one_position() -> None:
    assert prefill_call(tiny_lvlm("avg_pool", 4), text_tokens=10, batch=2)().logits.shape == (2, 1, 97)


def test_the_cache_holds_what_pruning_leaves_of_it() -> None:
    per_token = 2 * 2 * 8 * 4  # keys and values, two groups of 8 channels, float32
    assert kv_cache_bytes(tiny_lvlm("mlp", 1), text_tokens=10) == 4 * 154 * per_token
    pruned = tiny_lvlm("mlp", 1, free="fastv", layer=1, keep_ratio=0.25)
    assert kv_cache_bytes(pruned, text_tokens=10) == (154 + 3 * 46) * per_token


def test_a_cpu_keeps_no_count_of_a_peak() -> None:
    assert peak_bytes(lambda: pytest.fail("not called"), CPU) is None
