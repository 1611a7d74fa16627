"""The Spatial Vision Aggregator of Cambrian-1 (arXiv 2406.16860) inside the decoder: vision tokens are its queries.

What its layers compute stands at the top of methods/sva_connector/module.py, which shares them.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from vr_eval.layers.windows import window_index
from vr_eval.methods.base import Projector, Refusion, RefusionInput, Shapes, VisionFeatures
from vr_eval.methods.sva.spec import SVAOptions
from vr_eval.methods.sva_connector.layers import VisionTokenSampler
from vr_eval.methods.sva_connector.module import SVAConnector, TowerProjections, sampler


class SVA(Refusion):
    """One layer of the aggregator after each of some decoder layers; the vision tokens are its queries."""

    window: Tensor

    def __init__(self, shapes: Shapes, options: SVAOptions) -> None:
        super().__init__()
        options = options.resolve(shapes)
        self.levels, self.layers = options.levels or (), options.layers
        self.grid, self.stride = shapes.grid, shapes.stride
        self.reset_buffers()
        self.towers: TowerProjections | None = TowerProjections(shapes, self.levels, options.width or 0)
        self.vision_sampler_layers = nn.ModuleList(
            sampler(shapes.decoder_width, self.towers, 1, options.heads) for _ in self.layers
        )
        # In a tuple, so that the connector is no part of this module: its parameters are its own.
        self._connector: tuple[SVAConnector, ...] = ()

    def share(self, projector: Projector) -> None:
        """One projection of the tower serves both where the connector has the same (official code)."""
        own = self.towers
        if own is None or not isinstance(projector, SVAConnector):
            return
        if (own.levels, own.width) == (projector.towers.levels, projector.towers.width):
            self.towers, self._connector = None, (projector,)

    def reset_buffers(self) -> None:
        self.register_buffer("window", window_index(self.grid, self.stride), persistent=False)

    def to_inference(self) -> None:
        for part in self.vision_sampler_layers:
            cast(VisionTokenSampler, part).to_inference()

    def prepare(self, features: VisionFeatures) -> object:
        """Context and windows, which are the same for all insertion points."""
        towers = self.towers if self.towers is not None else self._connector[0].towers
        return towers(features, self.window)

    def inject(self, point: int, hidden: Tensor, given: RefusionInput) -> Tensor:
        context, windows = cast(tuple[Tensor, list[Tensor]], given.prepared)
        tokens = given.layout.gather(hidden)
        return given.layout.scatter(hidden, self.vision_sampler_layers[point](tokens, context, windows))
