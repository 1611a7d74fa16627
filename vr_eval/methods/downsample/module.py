"""Plain downsampling of the input image: what is left to gain by choosing or merging tokens after it.

A control (ours), and training-free: the checkpoint of the same model reads an image of 1/s of its side,
which is 1/s**2 of the vision tokens from the first decoder layer on, and of the patches that the tower computes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from vr_eval.methods.base import ImageMethod, Shapes
from vr_eval.methods.downsample.spec import DownsampleOptions


class Downsample(ImageMethod):
    """Every image at 1/s of its side, by bicubic interpolation with antialiasing.

    It resizes what the image processor made, not the original image: so it starts from exactly what the uncompressed
    model sees, whatever the processor does (resizing, cropping, padding), and needs no other processor for the same
    checkpoint. Normalisation is affine per channel and the filter's weights sum to 1, so the order of the two does not
    matter; nothing is rounded to 8 bits or clipped in between.
    """

    def __init__(self, shapes: Shapes, options: DownsampleOptions) -> None:
        super().__init__(shapes, options)
        self.factor = options.factor

    def forward(self, pixel_values: Tensor) -> Tensor:
        height, width = pixel_values.shape[-2:]
        size = (height // self.factor, width // self.factor)
        # In float32: half precision would round what the tower's own precision does not have to.
        return F.interpolate(pixel_values.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
