"""SVA: the layer written out, several towers and masks, the rule for its layers, what it shares with its connector."""

from __future__ import annotations

import math

import pytest
import torch

from vr_eval.layers.windows import window_index
from vr_eval.methods.base import Shapes, VisionFeatures
from vr_eval.methods.sva.module import SVA
from vr_eval.methods.sva.spec import SVAOptions
from vr_eval.methods.sva_connector.layers import VisionTokenSampler, merged, normed_linear, open_windows
from vr_eval.methods.sva_connector.module import SVAConnector
from vr_eval.methods.sva_connector.spec import SVAConnectorOptions
from vr_eval.models.lvlm import LVLM
from vr_eval.testing.tiny import batch, pixels, prompt, tiny_lvlm


def shapes(decoder_depth: int = 8, stride: int = 2) -> Shapes:
    return Shapes(
        grid=12,
        tower_width=32,
        tower_depth=4,
        select_layer=3,
        decoder_width=48,
        decoder_depth=decoder_depth,
        stride=stride,
    )


def normed(x: torch.Tensor, norm: torch.nn.Module) -> torch.Tensor:
    x = x - x.mean()
    return x / torch.sqrt(x.pow(2).mean() + 1e-5) * norm.weight + norm.bias


@torch.no_grad()
def test_a_layer_over_two_towers_with_masks_equals_the_formula_written_out() -> None:
    torch.manual_seed(0)
    heads, tokens, width = 4, 6, 16
    sampler = VisionTokenSampler(20, 12, [16, 10], [2, 1], width, depth=1, heads=heads)
    for parameter in sampler.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape))
    query, context = torch.randn(2, 3, 20), torch.randn(2, 1, 12)
    cells = [torch.randn(tokens, 4, 16), torch.randn(tokens, 1, 10)]
    masks = [torch.rand(tokens, 4) > 0.4, torch.ones(tokens, 1, dtype=torch.bool)]
    (layer,) = sampler.layers
    assert not hasattr(layer, "pos_embed_1")
    cross = layer.cross_attn
    expected = torch.empty(2, 3, 20)
    for t in range(tokens):
        q = query[t // 3, t % 3]
        z = layer.proj_in.weight @ torch.cat([q, layer.proj_context.weight @ context[t // 3, 0]])
        looked_at = [(0, cells[0][t, w] + layer.pos_embed_0[w]) for w in range(4) if masks[0][t, w]]
        looked_at += [(1, cells[1][t, 0])]
        part = {}
        for kind in ("k", "v"):
            lifts = [(getattr(cross, f"{kind}_proj_{i}"), x) for i, x in looked_at]
            part[kind] = torch.stack([lift[1].weight @ normed(x, lift[0]) for lift, x in lifts])
        asked = cross.q_proj[1].weight @ normed(z, cross.q_proj[0])
        seen = []
        for at in torch.arange(width).chunk(heads):
            weights = torch.softmax(part["k"][:, at] @ asked[at] / math.sqrt(width // heads), dim=0)
            seen.append(weights @ part["v"][:, at])
        z = normed(z + cross.o_proj.weight @ torch.cat(seen), layer.norm)
        inner = torch.nn.functional.gelu(layer.proj_out.linear_1.weight @ z)
        expected[t // 3, t % 3] = q + layer.proj_out.linear_2.weight @ inner
    torch.testing.assert_close(sampler(query, context, cells, masks), expected, atol=1e-5, rtol=1e-5)


def test_a_window_that_is_all_padding_is_left_open() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    assert open_windows(mask).tolist() == [[True, False], [True, True]]


@torch.no_grad()
def test_windows_hold_the_projected_cells_under_each_token_and_the_context_is_their_mean() -> None:
    connector = SVAConnector(shapes(stride=3), SVAConnectorOptions(heads=4, levels=(1, 3)))
    features = VisionFeatures(torch.randn(2, 144, 2, 32), (1, 3))
    context, windows = connector.towers(features, connector.window)
    first = connector.towers.mm_projector_aux_0(features.level(1))
    second = connector.towers.mm_projector_aux_1(features.level(3))
    torch.testing.assert_close(context[:, 0], first.mean(1))
    for image, token in ((0, 0), (1, 7), (1, 15)):
        for got, cells in zip(windows, (first, second), strict=True):
            assert torch.equal(got[image * 16 + token], cells[image, window_index(12, 3)[token]])


@pytest.mark.parametrize(
    ("depth", "layers"),
    [
        (32, tuple(range(0, 28, 3))),  # Cambrian-1 8B
        (40, tuple(range(0, 37, 4))),  # 13B
        (60, tuple(range(0, 57, 7))),  # 34B
        (4, (0, 1, 2)),
        (2, (0,)),
    ],
)
def test_its_layers_are_the_papers_at_the_papers_depths(depth: int, layers: tuple[int, ...]) -> None:
    options = SVAOptions().resolve(shapes(depth))
    assert options.layers == layers
    assert options.faults(shapes(depth)) == ()


@pytest.mark.parametrize(
    ("options", "option"),
    [
        (SVAOptions(start=7), "start"),
        (SVAOptions(stride=3, count=4), "count"),
        (SVAOptions(levels=(5,)), "levels"),
        (SVAOptions(heads=5), "heads"),
    ],
)
def test_settings_that_reach_past_the_backbone_are_faults(options: SVAOptions, option: str) -> None:
    (fault,) = options.faults(shapes(8))
    assert fault.option == option


def test_with_its_connector_both_read_one_projection_of_the_tower() -> None:
    model = tiny_lvlm("sva_connector", 4, "sva")
    assert not [name for name, _ in model.refusion.named_parameters() if "mm_projector_aux" in name]
    alone = tiny_lvlm("avg_pool", 4, "sva")
    assert [name for name, _ in alone.refusion.named_parameters() if "mm_projector_aux" in name]
    apart = tiny_lvlm("sva_connector", 4, "sva", width=32)
    assert [name for name, _ in apart.refusion.named_parameters() if "mm_projector_aux" in name]
    features = VisionFeatures(model.encode_images(pixels(1)), model.feature_levels)
    context, _ = model.refusion.prepare(features)
    assert torch.equal(context, model.projector.towers(features, model.projector.window)[0])


@torch.no_grad()
def test_a_shared_projection_of_the_tower_is_computed_once_a_prefill() -> None:
    model = tiny_lvlm("sva_connector", 4, "sva")
    calls: list[torch.Tensor] = []
    lift = model.projector.towers.mm_projector_aux_0
    handle = lift.register_forward_hook(lambda module, args, out: calls.append(out))
    ids = torch.tensor([prompt(model, 5, "image", 6)])
    first = model(ids, None, pixels(1)).logits
    assert len(calls) == 1
    other = model(ids, None, pixels(1, seed=1)).logits  # of another image, nothing is left over
    handle.remove()
    assert len(calls) == 2
    assert not torch.equal(calls[0], calls[1])
    assert not torch.equal(first, other)


@torch.no_grad()
def test_one_product_gives_what_norms_and_products_of_their_own_give() -> None:
    torch.manual_seed(0)
    lifts = [normed_linear(6, 5), normed_linear(6, 3)]
    for lift in lifts:
        for parameter in lift.parameters():
            parameter.add_(torch.randn(parameter.shape))
    x = torch.randn(4, 7, 6)
    joint = merged(lifts)
    assert [type(module).__name__ for module in joint] == ["LayerNorm", "Linear"]
    torch.testing.assert_close(joint(x), torch.cat([lift(x) for lift in lifts], -1), atol=1e-5, rtol=1e-5)


def test_in_the_inference_version_one_product_makes_keys_and_values() -> None:
    model = tiny_lvlm("sva_connector", 4, "sva").to_inference()
    for part in (model.projector, model.refusion):
        names = [name for name, _ in part.named_parameters()]
        assert any("key_values" in name for name in names)
        assert not [name for name in names if "k_proj" in name or "v_proj" in name]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_layer_inside_the_decoder(checkpointing: bool) -> None:
    model = tiny_lvlm("sva_connector", 4, "sva").train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    rows = [prompt(model, 5, "image", 6, 7, 8), prompt(model, 5, 6, "image", 8)]
    ids, mask = batch(rows, "right")
    labels = torch.full_like(ids, -100)
    labels[0, -1] = ids[0, -1]
    labels[1, len(rows[1]) - 1] = rows[1][-1]
    model(ids, mask, pixels(2), labels=labels).loss.backward()
    assert len(model.refusion.vision_sampler_layers) == 3
    for name, parameter in model.refusion.named_parameters():
        assert parameter.grad is not None, name
        if "k_proj" not in name or "bias" not in name:  # a shift of all keys changes no attention
            assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_an_image_changes_no_token_of_another() -> None:
    model: LVLM = tiny_lvlm("avg_pool", 4, "sva")
    ids = torch.tensor([prompt(model, 5, "image", 6), prompt(model, 5, "image", 6)])
    images = pixels(2)
    before = model(ids, None, images).logits
    images[1] += 1
    after = model(ids, None, images).logits
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_sizes_follow_the_official_rule() -> None:
    method = SVA(shapes(32), SVAOptions(heads=4))
    assert len(method.vision_sampler_layers) == 10
    layer = method.vision_sampler_layers[0].layers[0]
    assert layer.pos_embed_0.shape == (4, 32)
    assert layer.proj_in.weight.shape == (32, 48 + 32)
    assert layer.proj_out.linear_2.weight.shape == (48, 32)
