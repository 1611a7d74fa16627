"""The runner of reference cases reads whatever a folder describes: here, cases of other sizes than the committed ones.

Their outputs are computed by plain loops and by transformers' own modules, with nothing of vr_eval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import create_causal_mask

from tests.methods.golden_cases import cases, draw, parameter
from tests.methods.test_golden_deepstack import test_golden_deepstack as run_deepstack
from tests.methods.test_golden_fastv import test_golden_fastv as run_fastv
from tests.methods.test_golden_sva import test_golden_sva as run_sva
from tests.methods.test_golden_tokenpacker import test_golden_tokenpacker as run_tokenpacker

Weights = Mapping[str, Tensor]


def weights(meta: dict[str, Any]) -> Weights:
    return {name: parameter(name, shape, meta["seed"]) for name, shape in meta["parameters"].items()}


def given(name: str, meta: dict[str, Any]) -> Tensor:
    (full,) = (full for full in meta["inputs"] if full.endswith(f".{name}"))
    scale = np.float32(meta.get("inputs_scale", 1))
    return torch.from_numpy(draw(full, meta["inputs"][full], meta["seed"]) * scale)


def run(folder: Path, file: str, name: str, meta: dict[str, Any], outputs: dict[str, Tensor], case: Any) -> None:
    """Write one case as the goldens' README describes it, find it by `kind` and run it."""
    kind, test = case
    (folder / file).write_text(json.dumps({name: meta}))
    np.savez(folder / f"{name}.npz", **{key: value.numpy() for key, value in outputs.items()})
    (found,) = cases(folder, kind)
    test(found)
    np.savez(folder / f"{name}.npz", **{key: value.numpy() + 0.01 for key, value in outputs.items()})
    with pytest.raises(AssertionError):  # it does compare
        test(found)


def normed(x: Tensor, w: Weights, name: str, eps: float = 1e-5) -> Tensor:
    x = x - x.mean()
    return x / torch.sqrt(x.pow(2).mean() + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def one_query(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    seen = []
    for at in torch.arange(len(query)).chunk(heads):
        scores = keys[:, at] @ query[at] / math.sqrt(len(at))
        seen.append(torch.softmax(scores, 0) @ values[:, at])
    return torch.cat(seen)


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_sva_of_three_towers_with_and_without_masks(tmp_path: Path, masked: bool) -> None:
    q, ctx, width, depth, tokens = 24, 20, 32, 2, 5
    widths, sides = [32, 12, 32], [2, 1, 3]
    names: dict[str, list[int]] = {}
    for layer in (f"layers.{i}" for i in range(depth)):
        names |= {f"{layer}.proj_context.weight": [width, ctx], f"{layer}.proj_in.weight": [width, q + width]}
        names |= {f"{layer}.proj_out.linear_1.weight": [width, width], f"{layer}.proj_out.linear_2.weight": [q, width]}
        names |= {f"{layer}.norm.weight": [width], f"{layer}.norm.bias": [width]}
        lifts = {"q_proj": width, **{f"{kind}_proj_{i}": w for i, w in enumerate(widths) for kind in "kv"}}
        for lift, source in lifts.items():
            start = f"{layer}.cross_attn.{lift}"
            names |= {f"{start}.0.weight": [source], f"{start}.0.bias": [source], f"{start}.1.weight": [width, source]}
        names[f"{layer}.cross_attn.o_proj.weight"] = [width, width]
        names |= {f"{layer}.pos_embed_{i}": [side**2, width] for i, side in enumerate(sides) if side > 1}
    inputs = {"a.queries": [tokens, 1, q], "a.context": [tokens, 1, ctx]}
    inputs |= {f"a.kv{i}": [tokens, s**2, w] for i, (s, w) in enumerate(zip(sides, widths, strict=True))}
    meta: dict[str, Any] = {"official_class": "VisionTokenSampler", "seed": 3, "inputs": inputs, "parameters": names}
    arguments = {"q_dim": q, "context_dim": ctx, "kv_dim_list": widths, "kv_size_list": sides}
    meta["args"] = {**arguments, "vision_hidden_size": width, "num_of_layers": depth, "layer_type": "joint"}
    masks = [torch.ones(tokens, side**2, dtype=torch.bool) for side in sides]
    meta["masks"] = "all true"
    if masked:
        masks[0][1:, 2] = masks[2][:3, 4:] = False
        meta["masks"] = [mask.tolist() for mask in masks]
    w, query, context = weights(meta), given("queries", meta), given("context", meta)
    towers = [given(f"kv{i}", meta) for i in range(3)]
    for layer in (f"layers.{i}" for i in range(depth)):
        cross, after = f"{layer}.cross_attn", torch.empty_like(query)
        for t in range(tokens):
            own = query[t, 0]
            z = w[f"{layer}.proj_in.weight"] @ torch.cat([own, w[f"{layer}.proj_context.weight"] @ context[t, 0]])
            looked: dict[str, list[Tensor]] = {"k": [], "v": []}
            for i, cells in enumerate(towers):
                for c in masks[i][t].nonzero().flatten().tolist():
                    cell = cells[t, c] + (w[f"{layer}.pos_embed_{i}"][c] if sides[i] > 1 else 0)
                    for kind, found in looked.items():
                        lift = f"{cross}.{kind}_proj_{i}"
                        found.append(w[f"{lift}.1.weight"] @ normed(cell, w, f"{lift}.0"))
            asked = w[f"{cross}.q_proj.1.weight"] @ normed(z, w, f"{cross}.q_proj.0")
            seen = one_query(asked, torch.stack(looked["k"]), torch.stack(looked["v"]), heads=16)
            z = normed(z + w[f"{cross}.o_proj.weight"] @ seen, w, f"{layer}.norm")
            inner = F.gelu(w[f"{layer}.proj_out.linear_1.weight"] @ z)
            after[t, 0] = own + w[f"{layer}.proj_out.linear_2.weight"] @ inner
        query = after
    run(tmp_path, "meta_x.json", "a", meta, {"output": query}, ("VisionTokenSampler", run_sva))


@pytest.mark.parametrize(("grid", "s", "levels", "heads"), [(4, 2, 3, 4), (6, 3, 1, 2)])
@torch.no_grad()
def test_tokenpacker_of_other_grids_widths_and_levels(
    tmp_path: Path, grid: int, s: int, levels: int, heads: int
) -> None:
    width, out = 16, 12
    names = {"q_proj_1.weight": [width, width]}
    for kind in "kv":
        names |= {f"{kind}_proj_1.0.weight": [width, levels * width], f"{kind}_proj_1.0.bias": [width]}
        names |= {f"{kind}_proj_1.2.weight": [width, width], f"{kind}_proj_1.2.bias": [width]}
    names |= {f"ln_{kind}_1.{part}": [width] for kind in "qkv" for part in ("weight", "bias")}
    names |= {"clip_attn.in_proj_weight": [3 * width, width], "clip_attn.in_proj_bias": [3 * width]}
    names |= {"clip_attn.out_proj.weight": [width, width], "clip_attn.out_proj.bias": [width]}
    names |= {"mlp.0.weight": [out, width], "mlp.0.bias": [out], "mlp.2.weight": [out, out], "mlp.2.bias": [out]}
    arguments = {"raw_grid": grid, "embed_dim": width, "num_heads": heads, "kv_dim": width, "hidden_size": out}
    meta: dict[str, Any] = {"official_class": "TokenPacker", "args": {**arguments, "scale_factor": s}, "seed": 7}
    meta["inputs"] = {"b.single": [1, grid**2, width], "b.multi": [1, grid**2, levels * width]}
    meta["parameters"] = names
    w, single, multi = weights(meta), given("single", meta)[0], given("multi", meta)[0]
    expected = []
    for y in range(grid // s):
        for x in range(grid // s):
            under = [(s * y + i) * grid + s * x + j for i in range(s) for j in range(s)]
            # Bilinear at the middle of the window: the middle cell, or the mean of the four around it.
            coarse = single[under].mean(0) if s == 2 else single[under[4]]
            parts = [normed(w["q_proj_1.weight"] @ coarse, w, "ln_q_1", 1e-6).unsqueeze(0)]
            for kind in "kv":
                hidden = F.gelu(multi[under] @ w[f"{kind}_proj_1.0.weight"].T + w[f"{kind}_proj_1.0.bias"])
                lifted = hidden @ w[f"{kind}_proj_1.2.weight"].T + w[f"{kind}_proj_1.2.bias"]
                parts.append(torch.stack([normed(cell, w, f"ln_{kind}_1", 1e-6) for cell in lifted]))
            joint = zip(
                parts, w["clip_attn.in_proj_weight"].chunk(3), w["clip_attn.in_proj_bias"].chunk(3), strict=True
            )
            query, keys, values = (part @ weight.T + bias for part, weight, bias in joint)
            seen = (
                w["clip_attn.out_proj.weight"] @ one_query(query[0], keys, values, heads) + w["clip_attn.out_proj.bias"]
            )
            inner = F.gelu(w["mlp.0.weight"] @ seen + w["mlp.0.bias"])
            expected.append(w["mlp.2.weight"] @ inner + w["mlp.2.bias"])
    run(tmp_path, "meta_y.json", "b", meta, {"output": torch.stack(expected)[None]}, ("TokenPacker", run_tokenpacker))


def llama(layers: int, groups: int) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Sizes of a small Llama and its official parameters."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": groups, "vocab_size": 29, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in sizes.items() if k != "rope_theta"}))
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    return {**sizes, "tie_word_embeddings": False}, shapes


def layer_by_layer(
    meta: dict[str, Any], embeds: Tensor, before: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]
) -> Tensor:
    """Logits through transformers' own layers; `before` may change states, positions and visible keys of a layer."""
    given_sizes = {key: value for key, value in meta["llama"].items() if key != "rope_theta"}
    config = LlamaConfig(**given_sizes, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(weights(meta))
    hidden, positions = embeds, torch.arange(embeds.shape[1])[None]
    for number, layer in enumerate(model.model.layers):
        hidden, positions, visible = before(number, hidden, positions)
        seen = None if visible is None else visible[None]
        mask = create_causal_mask(config, hidden, seen, None, position_ids=None)
        rotary = model.model.rotary_emb(hidden, positions)
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, position_ids=positions)
    return model.lm_head(model.model.norm(hidden))


@pytest.mark.parametrize("mode", ["drop", "mask"])
@pytest.mark.parametrize(("k", "keep", "groups"), [(1, 3, 4), (4, 8, 2)])
@torch.no_grad()
def test_fastv_of_any_layer_and_number(tmp_path: Path, mode: str, k: int, keep: int, groups: int) -> None:
    sizes, names = llama(5, groups)
    before, image, after = 3, 9, 4
    meta: dict[str, Any] = {"official": f"Llama with FastV ({mode})", "llama": sizes, "seed": 11, "inputs_scale": 0.5}
    meta["fastv"] = {"system_tokens": before, "image_tokens": image, "text_tokens": after, "K": k, "keep": keep}
    meta["fastv"]["mode"] = mode
    meta |= {"inputs": {"c.inputs_embeds": [1, before + image + after, 32]}, "parameters": names}
    embeds = given("inputs_embeds", meta)
    config = LlamaConfig(
        **{key: value for key, value in sizes.items() if key != "rope_theta"},
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(weights(meta))
    row = model(inputs_embeds=embeds, output_attentions=True).attentions[k - 1].mean(1)[0, -1, before : before + image]
    kept = row.topk(keep).indices.sort().values + before
    stays = torch.cat([torch.arange(before), kept, torch.arange(before + image, before + image + after)])

    def prune(number: int, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if mode == "drop":
            return (hidden[:, stays], positions[:, stays], None) if number == k else (hidden, positions, None)
        visible = torch.zeros(hidden.shape[1], dtype=torch.bool).index_fill(0, stays, True)
        return hidden, positions, visible if number >= k else None

    outputs = {"logits": layer_by_layer(meta, embeds, prune), "kept_image_positions": kept}
    outputs["last_query_image_attention"] = row
    run(tmp_path, "meta_z.json", "c", meta, outputs, ("FastV", run_fastv))


@pytest.mark.parametrize(
    ("grid", "start", "interval"),
    [([2, 1], 0, 1), ([1, 3], 2, 2), (2, 3, 4), ([3, 1], 7, 1)],
    ids=["wide", "tall and beyond the last layer", "apart", "all beyond the last layer"],
)
@torch.no_grad()
def test_deepstack_of_any_grid_and_layers(tmp_path: Path, grid: Any, start: int, interval: int) -> None:
    sizes, names = llama(5, 4)
    side, before, after = 3, 2, 4
    columns, rows = grid if isinstance(grid, list) else (grid, grid)
    meta: dict[str, Any] = {"official": "DeepStack plain, 2d sampling", "llama": sizes, "seed": 2, "parameters": names}
    meta["deepstack"] = {"prefix_tokens": before, "image_side": side, "text_tokens": after, "grid": grid}
    meta["deepstack"] |= {"start_layer": start, "interval": interval}
    meta["inputs"] = {"d.projected_crops": [1 + rows * columns, side**2, 32], "d.text_embeds": [1, before + after, 32]}
    (view, *crops), text = given("projected_crops", meta), given("text_embeds", meta)[0]
    stacks = torch.zeros(4, side**2, 32)
    for i in range(rows):
        for j in range(columns):
            for token in range(side**2):
                y, x = token // side * rows + i, token % side * columns + j  # of the stitched map
                crop = crops[y // side * columns + x // side]
                stacks[i * columns + j, token] = crop[y % side * side + x % side]
    embeds = torch.cat([text[:before], view, text[before:]])[None]

    def add(number: int, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        for j, stack in enumerate(stacks):
            if number == start + j * interval:
                hidden = hidden.clone()
                hidden[0, before : before + side**2] += stack
        return hidden, positions, None

    outputs = {"stack": stacks, "logits": layer_by_layer(meta, embeds, add)}
    run(tmp_path, "meta_w.json", "d", meta, outputs, ("DeepStack", run_deepstack))
