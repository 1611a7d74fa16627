"""TokenPacker (arXiv 2407.02392): coarse queries look at the multi-level patches under them.

Computes what the official code computes (reference outputs agree); parameter names are the official ones, so that
official checkpoints need no renaming. Widths and the number of levels come from the tower.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vr_eval.layers.mlp import gelu_mlp
from vr_eval.layers.windows import from_grid, to_grid, window_index
from vr_eval.methods.base import Projector, Shapes, VisionFeatures
from vr_eval.methods.tokenpacker.spec import TokenPackerOptions

_EPS = 1e-6


class TokenPacker(Projector):
    """``(M, G*G, D)`` and ``(M, G*G, len(levels)*D)`` to ``(M, g*g, H)``."""

    window: Tensor

    def __init__(self, shapes: Shapes, options: TokenPackerOptions) -> None:
        super().__init__()
        width = shapes.tower_width
        self.single = shapes.select_layer
        self.multi = options.resolve(shapes).levels or ()
        self.levels = tuple(sorted({self.single, *self.multi}))
        self.side = shapes.grid // shapes.stride
        self.grid, self.stride = shapes.grid, shapes.stride
        self.reset_buffers()
        self.q_proj_1 = nn.Linear(width, width, bias=False)
        self.k_proj_1 = gelu_mlp(width * len(self.multi), width, 2)
        self.v_proj_1 = gelu_mlp(width * len(self.multi), width, 2)
        self.ln_q_1 = nn.LayerNorm(width, eps=_EPS)
        self.ln_k_1 = nn.LayerNorm(width, eps=_EPS)
        self.ln_v_1 = nn.LayerNorm(width, eps=_EPS)
        self.clip_attn = nn.MultiheadAttention(width, options.heads, batch_first=True)
        self.mlp = gelu_mlp(width, shapes.decoder_width, 2)
        self.reset_parameters()

    def reset_buffers(self) -> None:
        self.register_buffer("window", window_index(self.grid, self.stride), persistent=False)

    def reset_parameters(self) -> None:
        """Truncated normal 0.02 and zero biases; the attention's joint input projection stays Xavier (official)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: VisionFeatures) -> Tensor:
        return self.compress(features.level(self.single), features.concat(self.multi))

    def compress(self, single: Tensor, multi: Tensor) -> Tensor:
        """Vision tokens ``(M, g*g, H)`` from one level ``(M, G*G, D)`` and all levels ``(M, G*G, len(multi)*D)``."""
        # Resized in float32: half precision interpolation differs from the official code's.
        coarse = F.interpolate(to_grid(single).float(), size=(self.side, self.side), mode="bilinear")
        query = self.ln_q_1(self.q_proj_1(from_grid(coarse).to(single.dtype)))  # (M, N, D)
        key = self.ln_k_1(self.k_proj_1(multi))[:, self.window].flatten(0, 1)  # (M*N, s*s, D)
        value = self.ln_v_1(self.v_proj_1(multi))[:, self.window].flatten(0, 1)
        seen, _ = self.clip_attn(query.flatten(0, 1).unsqueeze(1), key, value, need_weights=False)
        return self.mlp(seen.view(query.shape))

    def extra_repr(self) -> str:
        return f"single={self.single}, multi={self.multi}, tokens={self.side**2}"
