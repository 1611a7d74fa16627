"""The large vision-language model of this project: a Hugging Face tower and decoder with three seams between them.

Notable:
- training, evaluation and every backbone run this one class; methods fill its seams (methods/base.py);
- vision features are computed once per image and may be handed in (`vision_features`), so that cells share a tower;
- refusion runs at prefill only, on hooks that last one call; pruning shortens the cache of the layers it precedes;
- a `generate` call keeps the vision features no longer than its prefill.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    SuppressTokensLogitsProcessor,
)
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from vr_eval.methods.base import (
    Downsampling,
    Projector,
    Pruning,
    PruningInput,
    Refusion,
    RefusionInput,
    VisionFeatures,
    VisionLayout,
    read_levels,
    tower_levels,
)
from vr_eval.methods.build import build_projector, build_pruning, build_refusion
from vr_eval.methods.levels import Level
from vr_eval.models.config import LVLMConfig
from vr_eval.models.encoding import encode, hidden_states
from vr_eval.models.pruned import pruned, take
from vr_eval.models.seams import injected

IGNORE = -100
"""The label of a token that is not supervised (PyTorch's convention)."""


class HeldFeatures:
    """Vision features of one `generate` call, released after prefill although frames of `generate` still hold this."""

    def __init__(self, maps: Tensor) -> None:
        self.maps: Tensor | None = maps


class LVLM(PreTrainedModel, GenerationMixin):
    """Vision tower + projector + causal language model, with refusion between decoder layers."""

    config_class = LVLMConfig
    config: LVLMConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement: ClassVar = ["past_key_values"]

    def __init__(self, config: LVLMConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.projector = build_projector(config)
        self.refusion = build_refusion(config, self.projector)
        self.fill_pruning()
        self.read_levels = read_levels(self.projector, self.refusion)
        # What stands in their place in the features: not the same where a method acts in the tower.
        self.feature_levels = tower_levels(self.projector, self.refusion)
        self.is_inference = False
        self.post_init()

    def fill_pruning(self) -> None:
        """Build seam 3 from `config`, again where a cell has changed that: it holds no parameters."""
        built = build_pruning(self.config)
        self.pruning: Pruning | None = built if isinstance(built, Pruning) else None
        self.downsampling: Downsampling | None = built if isinstance(built, Downsampling) else None

    def _init_weights(self, module: nn.Module) -> None:
        """Methods initialise their parameters on construction; `from_pretrained` builds on the meta device, where
        index buffers, which no checkpoint holds, come out empty and are made again here."""
        if isinstance(module, Projector | Refusion):
            module.reset_buffers()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    @property
    def decoder(self) -> Any:
        """The decoder without its language-modelling head; its `layers` are the places between which methods act."""
        return self.language_model.get_decoder()

    @property
    def grid(self) -> int:
        """Patches along one side that the tower sees: its own G, or what downsampling leaves of it."""
        whole: int = self.config.shapes.grid
        return whole if self.downsampling is None else whole // self.downsampling.factor

    @property
    def tokens_per_image(self) -> int:
        """Vision tokens of one image that the decoder sees."""
        return (self.grid // self.config.shapes.stride) ** 2

    def to_inference(self) -> LVLM:
        """The inference version, in place: frozen, merged constants, no dead parameters. Logits stay within 1e-4.

        It cannot be trained or saved any more: its weights do not have the names that a checkpoint holds.
        """
        for part in (self.projector, self.refusion):
            if part is not None:
                part.to_inference()
        self.is_inference = True
        return self.eval().requires_grad_(False)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As Hugging Face models. Raises ValueError for the inference version."""
        if self.is_inference:
            raise ValueError("the inference version of a model cannot be saved; save the training version before")
        super().save_pretrained(*args, **kwargs)

    def encode_images(self, pixel_values: Tensor, levels: tuple[Level, ...] | None = None) -> Tensor:
        """Hidden states of the tower, class token dropped; of crops of the images too, where `levels` name them.

        Args:
            pixel_values: ``(M, 3, height, width)``, of the tower's size; models that read crops take larger ones too.
                Downsampling is part of the encoding.
            levels: which hidden states; default `feature_levels`.

        Returns:
            ``(M, G*G, len(levels), D)``, where G is `grid`.
        """
        levels = levels or self.feature_levels
        if self.downsampling is None:
            return torch.stack(encode(self.vision_tower, pixel_values, levels), dim=2)
        states = hidden_states(self.vision_tower, self.downsampling(pixel_values), interpolate=True)
        # No refusion goes with a smaller image, so nothing but plain levels is read.
        return torch.stack([states[level] for level in levels if isinstance(level, int)], dim=2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | HeldFeatures | None = None,
        instruction_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One pass of the whole model.

        Args:
            input_ids: ``(B, S)``; every image stands as `tokens_per_image` consecutive image tokens.
            attention_mask: ``(B, S)``, 0 at padding, which may be left or right.
            pixel_values: ``(M, 3, height, width)``, the images in reading order of the batch.
            vision_features: ``(M, G*G, len(feature_levels), D)`` in their place, as `encode_images` gives them.
            instruction_mask: ``(B, P)`` bool, P <= S: the prompt, where the sequence goes on after it. Whatever is
                given, nothing from the first supervised token on belongs to the prompt.
            labels: ``(B, S)``, -100 where a token is not supervised.

        Raises:
            ValueError: the number of image tokens does not fit the number of images.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("input_ids or inputs_embeds is needed")
            inputs_embeds = self.get_input_embeddings()(input_ids)
        given = pruning_input = None
        if pixel_values is not None or vision_features is not None:
            if input_ids is None:
                raise ValueError("images need input_ids, which say where their tokens stand")
            maps = vision_features.maps if isinstance(vision_features, HeldFeatures) else vision_features
            if maps is None:
                if pixel_values is None:
                    raise ValueError("the features of this generate call are used up; pass the images again")
                maps = self.encode_images(pixel_values)
            features = VisionFeatures(maps.to(inputs_embeds.dtype), self.read_levels)
            layout = self._layout(input_ids, len(maps))
            inputs_embeds = layout.scatter(inputs_embeds, self.projector(features))
            prompt = self._prompt(input_ids, attention_mask, labels, instruction_mask)
            vision = input_ids == self.config.image_token_id
            if self.refusion is not None:
                given = RefusionInput(features, layout, prompt & ~vision, self.refusion.prepare(features))
            if self.pruning is not None:
                pruning_input = PruningInput(input_ids, vision, prompt)
                if use_cache and past_key_values is None:
                    past_key_values = DynamicCache(config=self.config.text_config)
        with (
            injected(self.decoder.layers, self.refusion, given),
            pruned(self.decoder, self.pruning, pruning_input, attention_mask, past_key_values) as kept,
        ):
            out = self.language_model(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                labels=labels if self.pruning is None else None,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
                **kwargs,
            )
        if labels is not None and self.pruning is not None:
            # The sequence is shorter than its labels; every supervised token is text, and text always stays.
            held = labels if kept.index is None else take(labels, kept.index)
            out.loss = self.language_model.loss_function(out.logits, held, self.config.text_config.vocab_size)
        return out

    def _layout(self, input_ids: Tensor, images: int) -> VisionLayout:
        row, column = (input_ids == self.config.image_token_id).nonzero(as_tuple=True)
        if len(row) != images * self.tokens_per_image:
            raise ValueError(
                f"{len(row)} image tokens for {images} image(s) of {self.tokens_per_image} vision tokens each"
            )
        index = torch.arange(images, device=row.device).repeat_interleave(self.tokens_per_image)
        return VisionLayout(row, column, index, images, self.tokens_per_image)

    def _prompt(
        self, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor | None, given: Tensor | None
    ) -> Tensor:
        """Tokens ``(B, S)`` of the prompt: no padding, nothing from the first supervised token on."""
        prompt = torch.ones_like(input_ids, dtype=torch.bool)
        if attention_mask is not None:
            prompt &= attention_mask[:, -input_ids.shape[1] :].bool()
        if given is not None:  # without a KV cache the sequence outgrows the prompt: answers are no instruction
            prompt &= nn.functional.pad(given.bool(), (0, input_ids.shape[1] - given.shape[1]))
        if labels is not None:
            prompt &= (labels != IGNORE).cumsum(1) == 0
        return prompt

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """`GenerationMixin.generate`; images are encoded once, however many beams or samples are asked for."""
        input_ids = inputs if inputs is not None else kwargs.pop("input_ids")
        if kwargs.get("pixel_values") is not None:
            kwargs["vision_features"] = HeldFeatures(self.encode_images(kwargs.pop("pixel_values")))
        elif kwargs.get("vision_features") is not None:
            kwargs["vision_features"] = HeldFeatures(kwargs["vision_features"])
        # Only a prompt holds images: a generated image token would ask for one.
        barred = SuppressTokensLogitsProcessor([self.config.image_token_id], self.device)
        kwargs["logits_processor"] = LogitsProcessorList([*(kwargs.get("logits_processor") or []), barred])
        kwargs.setdefault("instruction_mask", torch.ones_like(input_ids, dtype=torch.bool))
        return super().generate(inputs=input_ids, **kwargs)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: Cache | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Vision inputs go in at prefill, and at every step where there is no cache."""
        model_inputs = super().prepare_inputs_for_generation(input_ids, past_key_values=past_key_values, **kwargs)
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            for name in ("vision_features", "instruction_mask"):
                model_inputs.pop(name, None)
        return model_inputs

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        if outputs.get("past_key_values") is not None:  # prefill is over: free the features
            held = model_kwargs.pop("vision_features", None)
            if held is not None:
                held.maps = None
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, input_ids: Tensor | None = None, **model_kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Samples may hold any number of images, so images are repeated sample by sample, not one by one."""
        held = model_kwargs.pop("vision_features", None)
        if held is not None and expand_size > 1 and input_ids is not None:
            counts = (input_ids == self.config.image_token_id).sum(1) // self.tokens_per_image
            groups = torch.arange(len(held.maps), device=held.maps.device).split(counts.tolist())
            held.maps = held.maps[torch.cat([group for group in groups for _ in range(expand_size)])]
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, input_ids=input_ids, **model_kwargs
        )
        if held is not None:
            model_kwargs["vision_features"] = held
        return input_ids, model_kwargs
