"""How a conversation is written, by name: the chat templates of a checkpoint that brings none of its own. No torch.

A prompt of an evaluation and a sequence of training are written by the same template (models/chat.py), so they cannot
differ. Every template shows images where its messages have them and adds no system turn that nobody asked for, but for
Vicuna's, which LLaVA trains with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

IMAGE = "<image>"
"""What stands for an image in a template, and in LLaVA's data."""

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""Vicuna v1.1's, which LLaVA trains with (official code)."""

_CONTENT = (
    "{%- macro content(message) -%}{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<image>\\n' }}"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endmacro -%}"
)
"""The parts of a message one after the other, a line feed behind each image (LLaVA's official code)."""


@dataclass(frozen=True)
class ChatTemplate:
    """A format of conversations.

    Attributes:
        jinja: In transformers' terms: renders `messages`, and with `add_generation_prompt` what an answer follows.
        end: What ends an answer and is learned with it; empty for the tokenizer's end token.
        marks: Tokens that a tokenizer must know as one for it.
        asks: Whether it shows questions; else only their images.
    """

    jinja: str
    end: str = ""
    marks: tuple[str, ...] = ()
    asks: bool = True

    def showing(self, mark: str) -> ChatTemplate:
        """The same with `mark` for an image."""
        return replace(self, jinja=self.jinja.replace(IMAGE, mark))


_CHATML = ChatTemplate(
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    end="<|im_end|>",
    marks=("<|im_start|>", "<|im_end|>"),
)
"""Without `_CONTENT`: the embedded backbone and its checkpoints hold this text, byte by byte."""

_LLAMA3 = ChatTemplate(
    _CONTENT + "{{- bos_token -}}{%- for message in messages -%}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + content(message) + '<|eot_id|>' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}",
    end="<|eot_id|>",
    marks=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)

_VICUNA = ChatTemplate(
    _CONTENT
    + "{%- if messages[0]['role'] != 'system' -%}{{ '"
    + VICUNA_SYSTEM.replace("'", "\\'")
    + " ' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ content(message) + ' ' }}"
    "{%- elif message['role'] == 'user' -%}{{ 'USER: ' + content(message) + ' ASSISTANT:' }}"
    "{%- else -%}{{ ' ' + content(message) + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
)

_MISTRAL = ChatTemplate(
    _CONTENT + "{{- bos_token -}}{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ raise_exception('this template has no system turn') }}"
    "{%- elif message['role'] == 'user' -%}{{ '[INST] ' + content(message) + ' [/INST]' }}"
    "{%- else -%}{{ ' ' + content(message) + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
)

_PLAIN = ChatTemplate(
    _CONTENT + "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}{{ content(message) }}"
    "{%- elif message['role'] == 'assistant' -%}{{ content(message) + '\\n' }}{%- endif -%}"
    "{%- endfor -%}",
    end="\n",
    asks=False,
)
"""Images and then their captions, without what was asked (LLaVA's stage 1, official code)."""

TEMPLATES: Mapping[str, ChatTemplate] = MappingProxyType(
    {"chatml": _CHATML, "vicuna": _VICUNA, "llama3": _LLAMA3, "mistral": _MISTRAL, "plain": _PLAIN}
)


_QWEN2_OWN = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LLAMA3_OWN = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.first %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_MISTRAL_OWN = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)

TEXT_ONLY: Mapping[str, str] = MappingProxyType({"qwen2": _QWEN2_OWN, "llama3": _LLAMA3_OWN, "mistral": _MISTRAL_OWN})
"""In the form of published decoders' own templates, in jinja: they show no images, so no LVLM may use them."""


def family_template(vocabulary: Collection[str], decoder: str) -> str | None:
    """The name of the template that a tokenizer with this `vocabulary` and a decoder of this `model_type` go by.

    Tokens of a format tell it. Llama's and Mistral's tokenizers have none: their decoders do, since an LVLM on Llama
    without a template is one on Vicuna (LLaVA-1.5, LLaVA-NeXT). ``None`` where nothing tells.
    """
    for name in ("llama3", "chatml"):
        if all(mark in vocabulary for mark in TEMPLATES[name].marks):
            return name
    return {"llama": "vicuna", "mistral": "mistral"}.get(decoder) if "</s>" in vocabulary else None
