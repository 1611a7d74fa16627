"""Images in tiles: as many tokens as the processor writes, each above its own window, whatever else is in the batch."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests import internvl
from tests.llava import NEXT_POINTS, ONEVISION_POINTS, SIZES, asked, image, ported
from vr_eval.catalog.tiling import AnyRes, TokenPackerHD
from vr_eval.models.lvlm import LVLM
from vr_eval.models.pretrained import load_pretrained
from vr_eval.models.processor import fitted
from vr_eval.models.tiles import NEWLINE
from vr_eval.models.tiling.anyres import AnyResScheme
from vr_eval.testing.tiles import generated, processed, samples, tiled_batch
from vr_eval.testing.tiny import IMAGE, PAD, SIDE, batch, tiny_lvlm

NEXT = {"pinpoints": [[y * 2, x * 2] for y, x in NEXT_POINTS], "limit": None, "lone": False}
ONEVISION = {"pinpoints": [[y * 2, x * 2] for y, x in ONEVISION_POINTS], "limit": 2, "lone": True}
"""For the tower of vr_eval.testing.tiny; a limit of 2 tiles' tokens is soon reached."""
HD = TokenPackerHD.of(SIDE).row
CASES: list[tuple[dict[str, Any], str, int, str, str, dict[str, Any]]] = [
    (NEXT, "mlp", 1, "none", "none", {}),
    (NEXT, "avg_pool", 4, "vision_remember", "none", {}),
    (NEXT, "pixel_shuffle", 9, "vision_remember", "none", {"text_guide": "none", "order": "self_first"}),
    (NEXT, "tokenpacker", 4, "deepstack", "none", {}),
    (NEXT, "sva_connector", 4, "sva", "none", {}),
    (NEXT, "avg_pool", 9, "none", "fastv", {}),
    (NEXT, "avg_pool", 4, "none", "downsample", {}),
    (ONEVISION, "avg_pool", 4, "vision_remember", "none", {"halo": 1}),
    (ONEVISION, "tokenpacker", 9, "sva", "none", {}),
    (HD, "tokenpacker", 4, "vision_remember", "none", {}),
    (HD, "avg_pool", 9, "none", "fastv", {}),
]


@pytest.fixture(
    params=CASES, ids=lambda c: f"{c[0].get('scheme', c[0]['limit'])}-" + "-".join(map(str, c[1:5])), scope="module"
)
def model(request: pytest.FixtureRequest) -> LVLM:
    tiling, projector, ratio, refusion, pruning, options = request.param
    return tiny_lvlm(projector, ratio, refusion, pruning, tiling=tiling, **options)


def test_a_batch_equals_its_samples_and_a_cache_changes_nothing(model: LVLM) -> None:
    tiled_batch(model)


def test_several_sequences_of_one_prompt_see_its_images(model: LVLM) -> None:
    """The most probable token, drawn twice, is the greedy one twice."""
    rows, sizes = samples(model)
    ids, mask = batch(rows, "left")
    everything = [size for own in sizes for size in own]
    greedy = generated(model, ids, mask, everything).sequences
    drawn = generated(model, ids, mask, everything, do_sample=True, top_k=1, num_return_sequences=2).sequences
    assert torch.equal(drawn, greedy.repeat_interleave(2, dim=0))


def test_beams_see_the_images_of_their_own_sample(model: LVLM) -> None:
    rows, sizes = samples(model)
    ids, mask = batch(rows[:3], "left")
    how = {"num_beams": 2, "num_return_sequences": 2, "return_dict_in_generate": False, "output_logits": False}
    together = generated(model, ids, mask, [size for own in sizes[:3] for size in own], **how)
    for number in (0, 2):
        alone = generated(model, torch.tensor([rows[number]]), None, sizes[number], **how)
        assert torch.equal(together[2 * number : 2 * number + 2, -4:], alone[:, -4:])


@torch.no_grad()
def test_features_handed_in_equal_pixels(model: LVLM) -> None:
    from vr_eval.models.tiles import flat_tiles

    rows, sizes = samples(model)
    images = processed(model, sizes[1])
    placements = [model.scheme.place(size, model.tokens_per_side) for size in sizes[1]]
    maps = model.encode_images(flat_tiles(images["pixel_values"], placements))
    ids = torch.tensor([rows[1]])
    expected = model(ids, **images).logits
    assert torch.equal(model(ids, vision_features=maps, image_sizes=images["image_sizes"]).logits, expected)


def test_gradients_are_finite_and_reach_what_stands_between_tiles(model: LVLM) -> None:
    import copy

    rows, sizes = samples(model)
    twin = copy.deepcopy(model).train()
    ids, mask = batch(rows, "right")
    labels = torch.where(torch.arange(ids.shape[1]) >= mask.sum(1, keepdim=True) - 1, ids, -100)
    labels = labels.masked_fill(mask == 0, -100)
    twin(ids, mask, labels=labels, **processed(twin, [s for own in sizes for s in own])).loss.backward()
    for name, parameter in twin.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
    marks = (
        twin.get_input_embeddings().weight.grad[5:7] if twin.image_newline is None else twin.image_newline.grad[None]
    )
    assert (marks.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("tiling", [NEXT, ONEVISION, HD], ids=["next", "limited", "hd"])
@pytest.mark.parametrize("options", [{}, {"halo": 1}, {"fusion": "per_level"}], ids=["window", "halo", "levels"])
@torch.no_grad()
def test_a_token_looks_at_the_cells_of_its_own_tile_under_it(tiling: dict[str, Any], options: dict[str, Any]) -> None:
    """A change to one cell of one tile reaches the tokens whose window holds it, and no newline or other token."""
    model = tiny_lvlm("avg_pool", 4, "vision_remember", tiling=tiling, layers=(0,), order="cross_only", **options)
    size = (130, 140)
    images = processed(model, [size])
    row = [10, *[IMAGE] * model.image_tokens([size])[0], 20]
    placement = model.scheme.place(size, 6)
    maps = model.encode_images(images["pixel_values"][0][: placement.tiles])
    assert placement.tiles > 4
    for tile, y, x in ((0, 0, 0), (1, 11, 11), (2, 11, 0), (4, 6, 7)):
        changed = maps.clone()
        changed[tile, 12 * y + x] += 1.0
        before, after = (states_after_first_layer(model, row, given, images) for given in (maps, changed))
        # The projector pools the same cell: its token differs from the start. Others may differ by refusion alone.
        moved = (before != after).any(-1).nonzero().flatten().tolist()
        expected = []
        for position, found in enumerate(placement.places.tolist(), start=1):
            if found < 0:
                continue
            token_y, token_x = (found % 36) // 6, (found % 36) % 6
            halo = options.get("halo", 0)
            rows_, columns_ = (range(2 * token - halo, 2 * token + 2 + halo) for token in (token_y, token_x))
            if found // 36 == tile and y in rows_ and x in columns_:
                expected.append(position)
        assert moved == expected


def states_after_first_layer(model: LVLM, row: list[int], maps: torch.Tensor, images: Any) -> torch.Tensor:
    """What refusion makes of fixed hidden states: those of an image of zeros in the decoder's first layer."""
    seen: list[torch.Tensor] = []
    layers = model.decoder.layers
    first = layers[0].register_forward_hook(lambda _, args, output: torch.ones_like(output), prepend=True)
    second = layers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    try:
        model(torch.tensor([row]), vision_features=maps, image_sizes=images["image_sizes"])
    finally:
        first.remove()
        second.remove()
    return seen[0]


def test_places_of_a_wide_image() -> None:
    """Two tiles side by side of 2 x 2 tokens; a quarter of the height is padding, above and below."""
    wide = AnyResScheme(AnyRes(((8, 16),)), 8)
    assert wide.place((8, 16), 2).places.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, NEWLINE, 6, 7, 10, 11, NEWLINE]
    stacked = AnyResScheme(AnyRes(((16, 8),)), 8)
    assert stacked.place((16, 4), 4).places.tolist()[16:24] == [17, 18, NEWLINE, 21, 22, NEWLINE, 25, 26]


def test_an_image_that_is_shown_as_its_base_view_alone_has_no_other_tile() -> None:
    points = tuple((y, x) for y, x in ONEVISION["pinpoints"])
    lone = AnyResScheme(AnyRes(points, 2, lone=True), SIDE)
    assert lone.shown_sizes([(40, 50)]) == [(40, 50)]
    assert lone.shown_sizes([(40, 50), (60, 70)]) == [(0, 0), (0, 0)]
    assert AnyResScheme(AnyRes(points, 2), SIDE).shown_sizes([(40, 50), (60, 70)]) == [(40, 50), (60, 70)]
    assert tiny_lvlm().shown_sizes([(40, 50), (60, 70)]) == [(40, 50), (60, 70)]
    shown = lone.place((0, 0), 2)
    assert shown.tiles == 1
    assert shown.places.tolist() == [0, 1, 2, 3, NEWLINE]


def test_resized_tokens_stand_above_different_cells() -> None:
    placement = AnyResScheme(AnyRes(tuple(map(tuple, ONEVISION_POINTS)), limit=9), 24).place((1000, 900), 6)
    vision = placement.places[36:][placement.places[36:] != NEWLINE]
    assert placement.before is not None
    assert len(vision) == placement.after[0] * placement.after[1] <= 9 * 36
    assert len(set(vision.tolist())) == len(vision)


MODES = ("L", "P", "RGBA", "CMYK", "1", "I;16", "LA")


def sizes_of(count: int) -> list[tuple[int, int]]:
    drawn = random.Random(0)
    extremes = [(1, 2000), (2000, 1), (8, 8), (1, 1), (2, 3), (24, 24), (1999, 2000)]
    return [*extremes, *((int(2 ** drawn.uniform(0, 9)), int(2 ** drawn.uniform(0, 9))) for _ in range(count - 7))]


@pytest.mark.parametrize("kind", ["llava_next", "llava_onevision"])
def test_token_counts_agree_with_the_processor_for_500_sizes(kind: str, tmp_path: Path) -> None:
    model, processor = load_pretrained(ported(kind, tmp_path))
    sizes = sizes_of(500)
    blank = {size: Image.new("RGB", size[::-1]) for size in sizes}
    for ratio, some in ((1, sizes), (9, sizes[:60])):
        fitted(processor, 4, 6, ratio)
        model.config.ratio = ratio
        counted = model.image_tokens(some)
        for start in range(0, len(some), 50):
            part = some[start : start + 50]
            inputs = processor(images=[blank[size] for size in part], text=[asked(1)] * len(part))
            found = [row.count(processor.image_token_id) for row in inputs["input_ids"]]
            assert found == counted[start : start + 50]
    model.config.ratio = 1


def files() -> list[Image.Image]:
    """Images of every mode, one turned by its EXIF data, and an animation, in sizes that are as odd."""
    read = []
    for number, mode in enumerate(MODES):
        given = image(SIZES[number % len(SIZES)], seed=number).convert("RGB" if mode == "I;16" else mode)
        if mode == "I;16":
            given = given.convert("L").convert("I").point(lambda value: value * 257).convert("I;16")
        read.append(given)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    frames = [image(SIZES[1], seed=seed) for seed in (8, 9)]
    for kind, how in (("PNG", {"exif": exif}), ("GIF", {"save_all": True, "append_images": frames[1:]})):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, **how)
        read.append(Image.open(buffer))
    return read


@pytest.mark.parametrize("kind", ["llava", "llava_next", "llava_onevision", "internvl"])
@torch.no_grad()
def test_images_of_any_file_are_read_and_counted(kind: str, tmp_path: Path) -> None:
    from vr_eval.models.features import size_of
    from vr_eval.models.reading import upright

    source = internvl.internvl(tmp_path) if kind == "internvl" else ported(kind, tmp_path)
    model, processor = load_pretrained(source)
    ask = internvl.asked if kind == "internvl" else asked
    read = [upright(given) for given in files()]
    assert read[-2].size == files()[-2].size[::-1]
    inputs = processor(images=read, text=[ask(1)] * len(read), return_tensors="pt", padding=True)
    counted = (inputs["input_ids"] == processor.image_token_id).sum(1)
    assert counted.tolist() == model.image_tokens([size_of(upright(given)) for given in files()])
    assert torch.isfinite(model(**inputs).logits[inputs["attention_mask"].bool()]).all()


def test_too_few_tokens_and_missing_sizes_are_refused(model: LVLM) -> None:
    rows, sizes = samples(model)
    images = processed(model, sizes[0])
    with pytest.raises(ValueError, match="image tokens for 1 image"):
        model(torch.tensor([[*rows[0][:-4], PAD]]), **images)
    with pytest.raises(ValueError, match="image_sizes are needed"):
        model(torch.tensor([rows[0]]), None, images["pixel_values"])
    with pytest.raises(ValueError, match="ask for"):
        model(torch.tensor([rows[0]]), None, images["pixel_values"][:, :1], image_sizes=images["image_sizes"])
