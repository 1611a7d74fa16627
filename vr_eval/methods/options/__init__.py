"""Options of every method, with their defaults and where each default comes from; one file per seam."""

from vr_eval.methods.options.base import Fault, Options, Shape, levels_at
from vr_eval.methods.options.projectors import (
    TOKENPACKER_LEVELS,
    AvgPoolOptions,
    CAbstractorOptions,
    LDPv2Options,
    MLPOptions,
    PixelShuffleOptions,
    ResamplerOptions,
    SVAConnectorOptions,
    TokenPackerOptions,
)
from vr_eval.methods.options.pruning import DownsampleOptions, FastVOptions, RandomOptions, downsample_factors
from vr_eval.methods.options.refusion import (
    VISION_REMEMBER_LEVELS,
    DeepStackOptions,
    SVAOptions,
    VisionRememberOptions,
    insertion_layers,
)

__all__ = [
    "TOKENPACKER_LEVELS",
    "VISION_REMEMBER_LEVELS",
    "AvgPoolOptions",
    "CAbstractorOptions",
    "DeepStackOptions",
    "DownsampleOptions",
    "FastVOptions",
    "Fault",
    "LDPv2Options",
    "MLPOptions",
    "Options",
    "PixelShuffleOptions",
    "RandomOptions",
    "ResamplerOptions",
    "SVAConnectorOptions",
    "SVAOptions",
    "Shape",
    "TokenPackerOptions",
    "VisionRememberOptions",
    "downsample_factors",
    "insertion_layers",
    "levels_at",
]
