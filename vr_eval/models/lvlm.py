"""The large vision-language model of this project: a Hugging Face tower and decoder with four seams around them.

Notable:
- training, evaluation and every backbone run this one class; methods fill its seams (methods/base.py);
- vision features are computed once per image and may be handed in (`vision_features`), so that cells share a tower;
- an image is one square, or a base view and tiles (`config.tiling`); methods work on each of them by itself;
- the image seam is a part of encoding an image: whoever hands features in has them from `encode_images`;
- refusion runs at prefill only, on hooks that last one call; pruning shortens the cache of the layers it precedes;
- a `generate` call keeps the vision features no longer than its prefill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    SuppressTokensLogitsProcessor,
)
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from vr_eval.methods.base import (
    Projector,
    Refusion,
    RefusionInput,
    VisionFeatures,
    read_levels,
    tower_levels,
)
from vr_eval.methods.levels import Level
from vr_eval.models.config import LVLMConfig
from vr_eval.models.encoding import encode, hidden_states
from vr_eval.models.layout import HeldImages, images_of_rows, layout_of
from vr_eval.models.methods import build_image_method, build_projector, build_pruning, build_refusion
from vr_eval.models.reduced import Prompt, reduced, take
from vr_eval.models.seams import Injection, injected
from vr_eval.models.tiles import Placement, flat_tiles, pack
from vr_eval.models.tiling import scheme_of

IGNORE = -100
"""The label of a token that is not supervised (PyTorch's convention)."""


class LVLM(PreTrainedModel, GenerationMixin):
    """Vision tower + projector + causal language model, with what the other seams hold (None where one is empty)."""

    config_class = LVLMConfig
    config: LVLMConfig
    generation_config: GenerationConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement: ClassVar = ["past_key_values"]

    def __init__(
        self, config: LVLMConfig, tower: PreTrainedModel | None = None, decoder: PreTrainedModel | None = None
    ) -> None:
        """`tower` and `decoder`: parts that are there already; where they are not, random ones are made."""
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config) if tower is None else tower
        self.language_model = AutoModelForCausalLM.from_config(config.text_config) if decoder is None else decoder
        self.projector = build_projector(config)
        self.refusion = build_refusion(config, self.projector)
        self.fill_training_free()
        self.read_levels = read_levels(self.projector, self.refusion)
        # What stands in their place in the features: not the same where a method acts in the tower.
        self.feature_levels = tower_levels(self.projector, self.refusion)
        self.is_inference = False
        tiling = config.tiles
        self.scheme = None if tiling is None else scheme_of(tiling, config.image_px)
        self.image_newline: nn.Parameter | None = None
        if self.scheme is not None and self.scheme.learned_newline:
            width = config.text_config.hidden_size
            self.image_newline = nn.Parameter(torch.randn(width) * width**-0.5)  # LLaVA-NeXT's initialisation
        self.post_init()

    def fill_training_free(self) -> None:
        """Build seams 0 and 3 from `config`, again where a cell has changed that: they hold no parameters."""
        self.image_method = build_image_method(self.config)
        self.pruning = build_pruning(self.config)

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
        """Patches along one side that the tower sees: its own G, or what the image seam leaves of it."""
        whole: int = self.config.shapes.grid
        return whole if self.image_method is None else self.image_method.patches(whole)

    @property
    def tokens_per_image(self) -> int:
        """Vision tokens that the decoder sees of one image, or of one tile with nothing dropped."""
        return self.tokens_per_side**2

    @property
    def tokens_per_side(self) -> int:
        """Tokens along one side of an image, or of one tile with nothing dropped."""
        return self.grid // self.config.shapes.stride

    def image_tokens(self, image_sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Image tokens that stand for images of these heights and widths; (0, 0): shown as a base view alone."""
        placements = self._placements(image_sizes)
        if placements is None:
            return [self.tokens_per_image] * len(image_sizes)
        return [len(placement.places) for placement in placements]

    def shown_sizes(self, image_sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Heights and widths of the images of one sample, (0, 0) in place of those that are shown as base views."""
        return list(image_sizes) if self.scheme is None else self.scheme.shown_sizes(image_sizes)

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
                The image seam is part of the encoding.
            levels: which hidden states; default `feature_levels`.

        Returns:
            ``(M, G*G, len(levels), D)``, where G is `grid`.
        """
        levels = levels or self.feature_levels
        if self.image_method is None:
            return torch.stack(encode(self.vision_tower, pixel_values, levels), dim=2)
        states = hidden_states(self.vision_tower, self.image_method(pixel_values), interpolate=True)
        # No refusion goes with another image, so nothing but plain levels is read.
        return torch.stack([states[level] for level in levels if isinstance(level, int)], dim=2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | HeldImages | None = None,
        image_sizes: Tensor | None = None,
        batch_num_images: Tensor | None = None,
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
            input_ids: ``(B, S)``; every image stands as `image_tokens` consecutive image tokens.
            attention_mask: ``(B, S)``, 0 at padding, which may be left or right.
            pixel_values: ``(M, 3, height, width)``, the images in reading order of the batch; images in tiles as
                ``(I, tiles, 3, height, width)``, filled up with tiles that are not looked at, or all tiles as M.
            vision_features: ``(M, G*G, len(feature_levels), D)`` in their place, as `encode_images` gives them.
            image_sizes: ``(I, 2)`` heights and widths of the original images, for a model that cuts them into tiles;
                (0, 0) for an image that is shown as its base view alone.
            batch_num_images: ``(B,)`` images of each sample, as LLaVA-OneVision's processor gives them.
            instruction_mask: ``(B, P)`` bool, P <= S: the prompt, where the sequence goes on after it. Whatever is
                given, nothing from the first supervised token on belongs to the prompt.
            labels: ``(B, S)``, -100 where a token is not supervised.

        Raises:
            ValueError: the number of image tokens does not fit the number of images, or what images need is not given:
                `input_ids` and, where they are cut into tiles, `image_sizes`.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("input_ids or inputs_embeds is needed")
            inputs_embeds = self._embed(input_ids)
        injection = sequences = None
        if pixel_values is not None or vision_features is not None:
            if input_ids is None:
                raise ValueError("images need input_ids, which say where their tokens stand")
            held = self._held(pixel_values, vision_features, image_sizes, batch_num_images)
            if held.maps is None:
                raise ValueError("the features of this generate call are used up; pass the images again")
            features = VisionFeatures(held.maps.to(inputs_embeds), self.read_levels)
            vision = input_ids == self.config.image_token_id
            layout = layout_of(vision, len(held.maps), self.tokens_per_image, held.placements)
            tokens = self.projector(features)
            if held.placements is None:
                inputs_embeds = layout.scatter(inputs_embeds, tokens)
            else:
                packed = pack(tokens, self._marks(), held.placements)
                inputs_embeds = inputs_embeds.index_put(vision.nonzero(as_tuple=True), packed.to(inputs_embeds))
            prompt = self._prompt(input_ids, attention_mask, labels, instruction_mask)
            if self.refusion is not None:
                prepared = self.refusion.prepare(features)
                injection = Injection(RefusionInput(features, layout, prompt & ~vision, prepared))
            if self.pruning is not None:
                seen = None if attention_mask is None else attention_mask.bool()
                sequences = Prompt(input_ids, prompt, self._images_at(vision, held), seen)
                if use_cache and past_key_values is None:
                    past_key_values = DynamicCache(config=self.config.text_config)
        elif input_ids is not None and past_key_values is None:
            self._refuse_image_tokens(input_ids)
        with (
            injected(self.decoder.layers, self.refusion, injection),
            reduced(self.decoder, self.pruning, sequences, past_key_values, injection) as left,
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
            supervised = labels if left.index is None else take(labels, left.index)
            out.loss = self.language_model.loss_function(out.logits, supervised, self.config.text_config.vocab_size)
        return out

    def _refuse_image_tokens(self, input_ids: Tensor) -> None:
        """Raises ValueError: a prompt without images has image tokens, which would be read as some word."""
        count = int((input_ids == self.config.image_token_id).sum())
        if count:
            raise ValueError(f"{count} image tokens for 0 image(s): pass pixel_values or vision_features")

    def _embed(self, input_ids: Tensor) -> Tensor:
        embeddings: Any = self.get_input_embeddings()
        token = self.config.image_token_id
        if token >= embeddings.num_embeddings:  # a tokenizer's own token that the decoder was never trained with
            input_ids = input_ids.masked_fill(input_ids == token, 0)
        return embeddings(input_ids)

    def _marks(self) -> Tensor:
        """What stands between tokens of tiles, ``(1 or 2, H)``: a learned newline, or the decoder's own tokens."""
        if self.image_newline is not None:
            return self.image_newline[None]
        embeddings: Any = self.get_input_embeddings()
        marks: Tensor = embeddings(torch.tensor(self.config.mark_token_ids, device=embeddings.weight.device))
        return marks

    def _held(
        self,
        pixel_values: Tensor | None,
        vision_features: Tensor | HeldImages | None,
        image_sizes: Tensor | None,
        batch_num_images: Tensor | None,
    ) -> HeldImages:
        """The features of the images with where their tokens stand."""
        if isinstance(vision_features, HeldImages):
            return vision_features
        sizes = None if image_sizes is None else [(int(h), int(w)) for h, w in image_sizes]
        if sizes is not None and batch_num_images is not None:
            samples = torch.arange(len(sizes)).split(batch_num_images.tolist())
            sizes = [shown for sample in samples for shown in self.shown_sizes([sizes[i] for i in sample])]
        bare = self.scheme is not None and not self.scheme.marked
        placements = None if bare else self._placements(sizes)
        if vision_features is None:
            assert pixel_values is not None
            if placements is not None and pixel_values.dim() == 5:
                pixel_values = flat_tiles(pixel_values, placements)
            vision_features = self.encode_images(pixel_values)
        return HeldImages(vision_features, placements)

    def _counts(self, held: HeldImages) -> list[int]:
        """Image tokens of each image."""
        if held.placements is not None:
            return [len(placement.places) for placement in held.placements]
        return [] if held.maps is None else [self.tokens_per_image] * len(held.maps)

    def _images_at(self, vision: Tensor, held: HeldImages) -> Tensor:
        """The number of the image whose token stands at each place ``(B, S)``; -1 elsewhere."""
        counts = torch.tensor(self._counts(held), device=vision.device)
        number = torch.arange(len(counts), device=vision.device).repeat_interleave(counts)
        return torch.full_like(vision, -1, dtype=torch.long).masked_scatter(vision, number)

    def _placements(self, sizes: Sequence[tuple[int, int]] | None) -> tuple[Placement, ...] | None:
        if self.scheme is None:
            return None
        if sizes is None:
            raise ValueError("image_sizes are needed: this model cuts images into tiles by their original size")
        return tuple(self.scheme.place(size, self.tokens_per_side) for size in sizes)

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
        names = ("pixel_values", "vision_features", "image_sizes", "batch_num_images")
        given = {name: kwargs.pop(name, None) for name in names}
        if given["pixel_values"] is not None or given["vision_features"] is not None:
            kwargs["vision_features"] = self._held(**given)
        else:
            self._refuse_image_tokens(input_ids)
        # Only a prompt holds images: a generated image token would ask for one.
        barred = SuppressTokensLogitsProcessor([self.config.image_token_id], self.device)
        # In front of all others: what draws a token must not draw this one.
        kwargs["logits_processor"] = LogitsProcessorList([barred, *(kwargs.get("logits_processor") or [])])
        kwargs.setdefault("instruction_mask", torch.ones_like(input_ids, dtype=torch.bool))
        return super().generate(inputs=input_ids, **kwargs)

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """A config that is handed in is whole: what it leaves open is the library's default, not this checkpoint's."""
        own = self.generation_config
        if generation_config is not None:
            self.generation_config = GenerationConfig()
        try:
            prepared: tuple[GenerationConfig, dict[str, Any]] = super()._prepare_generation_config(
                generation_config, **kwargs
            )
        finally:
            self.generation_config = own
        return prepared

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
            groups = images_of_rows(input_ids == self.config.image_token_id, self._counts(held))
            held = held.repeated(groups, expand_size)
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, input_ids=input_ids, **model_kwargs
        )
        if held is not None:
            model_kwargs["vision_features"] = held
        return input_ids, model_kwargs


for _auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
    _auto.register(LVLMConfig, LVLM)
