"""What the full Tiny-ImageNet would cost, against a count by hand."""

from __future__ import annotations

import pytest

from vr_eval.probes.price import IMAGES, PROMPT_TOKENS, llava_next_7b


def test_the_price_is_that_of_the_published_shapes() -> None:
    price = llava_next_7b()
    assert price.taps == 25 + 1 + 1 + 32
    assert price.stored_bytes == IMAGES * 4 * (26 * 1024 + 33 * 4096)  # float32
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    decoder = 2 * (576 + PROMPT_TOKENS) * 32 * layer
    tower = 2 * 577 * 24 * 12 * 1024**2
    # Attention, the projector and the patch embedding are the rest.
    assert price.flops == pytest.approx(decoder + tower, rel=0.05)
    assert price.flops > decoder + tower
