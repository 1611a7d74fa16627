"""The configuration of an LVLM: two Hugging Face configurations and the names of its methods."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from vr_eval.catalog.tiling import Tiling, read_tiling
from vr_eval.methods.base import Shapes


class LVLMConfig(PreTrainedConfig):
    """What `save_pretrained` writes to config.json. Methods are names in the registry, never dotted paths."""

    model_type = "vr_eval_lvlm"
    sub_configs: ClassVar = {"vision_config": AutoConfig, "text_config": AutoConfig}

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        *,
        projector: str = "mlp",
        refusion: str = "none",
        pruning: str = "none",
        image: str = "none",
        ratio: int = 1,
        options: dict[str, dict[str, Any]] | None = None,
        select_layer: int = -2,
        tiling: dict[str, Any] | None = None,
        image_token_id: int = 0,
        mark_token_ids: list[int] | None = None,
        backbone: str = "",
        checkpoint_id: str = "",
        **kwargs: Any,
    ) -> None:
        """Options maps a method's name to its options; `select_layer` counts hidden states, negative from the end;
        `tiling` is the row of a `Tiling`; `mark_token_ids` are the decoder's tokens that end a row of tiles and
        separate them, where a scheme uses such."""
        self.vision_config = _sub_config(vision_config, "clip_vision_model")
        self.text_config = _sub_config(text_config, "qwen2")
        self.projector, self.refusion, self.pruning, self.image = projector, refusion, pruning, image
        self.ratio = ratio
        self.options = options or {}
        self.select_layer = select_layer
        self.tiling = tiling
        self.image_token_id = image_token_id
        self.mark_token_ids = mark_token_ids
        self.backbone = backbone
        self.checkpoint_id = checkpoint_id
        kwargs.setdefault("tie_word_embeddings", getattr(self.text_config, "tie_word_embeddings", False))
        parts = (self.vision_config, self.text_config)
        attention = [part._attn_implementation for part in parts]
        super().__init__(**kwargs)
        # It sets the attention of its parts anew; those of models that are loaded keep theirs, or they would go on
        # with the masks of one and the attention of another.
        for part, implementation in zip(parts, attention, strict=True):
            part._attn_implementation = part._attn_implementation or implementation

    def to_dict(self) -> dict[str, Any]:
        """Without the folders that tower and decoder were loaded from: a checkpoint travels to other machines."""
        content: dict[str, Any] = super().to_dict()
        for part in self.sub_configs:
            content[part].pop("_name_or_path", None)
        return content

    @property
    def tiles(self) -> Tiling | None:
        """How images are cut into tiles; None if every image is one square."""
        return None if self.tiling is None else read_tiling(self.tiling)

    @property
    def image_px(self) -> int:
        """Pixels along one side of what the vision tower takes: an image, or a tile."""
        return side_of(self.vision_config.image_size)

    @property
    def shapes(self) -> Shapes:
        """The sizes that methods are built from."""
        vision, text = self.vision_config, self.text_config
        depth = vision.num_hidden_layers
        return Shapes(
            grid=side_of(vision.image_size) // side_of(vision.patch_size),
            tower_width=vision.hidden_size,
            tower_depth=depth,
            select_layer=self.select_layer if self.select_layer >= 0 else depth + 1 + self.select_layer,
            decoder_width=text.hidden_size,
            decoder_depth=text.num_hidden_layers,
            stride=isqrt(self.ratio),
        )


def side_of(size: int | Sequence[int]) -> int:
    """One side of a square, which some towers' configurations give as height and width."""
    return size if isinstance(size, int) else size[0]


def _sub_config(value: PreTrainedConfig | dict[str, Any] | None, default: str) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    fields = dict(value or {})
    return AutoConfig.for_model(fields.pop("model_type", default), **fields)


AutoConfig.register(LVLMConfig.model_type, LVLMConfig)
