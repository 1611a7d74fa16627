"""How a conversation of the training data is written as one text, and which tokens of that text are answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from vr_eval.catalog.chat_templates import IMAGE, TEMPLATES, ChatTemplate
from vr_eval.catalog.recipe import Recipe, StageData
from vr_eval.models.chat import Chat, Turns
from vr_eval.models.lvlm import IGNORE
from vr_eval.models.processor import Processor
from vr_eval.models.text import tokens_of
from vr_eval.training.conversation import Encoded


@dataclass(frozen=True)
class Template:
    """A format and the tokenizer that reads it.

    Attributes:
        name: A key of `TEMPLATES`; whatever it is where `own` is given.
        tokenizer: Reads the text.
        own: The chat template that the model is asked with, in place of one by name.
        image_first: The image of a question with a single one is moved to its front, a line feed behind it.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    own: str = ""
    image_first: bool = False

    @classmethod
    def of(cls, data: StageData, recipe: Recipe, processor: Processor) -> Template:
        """The one that `data` is written in: by name, or as the model of `processor` is asked."""
        if data.template is not None:
            return cls(data.template, processor.tokenizer, image_first=recipe.image_first)
        return cls("own", processor.tokenizer, Chat.of(processor).template.jinja, recipe.image_first)

    @property
    def about(self) -> list[object]:
        """All that changes how a conversation is written, but for the tokenizer."""
        return [self.name, self.own, self.image_first]

    @property
    def unknown(self) -> str | None:
        """A mark of the format that the tokenizer does not know as one token, if there is one."""
        vocabulary = self.tokenizer.get_vocab()
        marks = () if self.own else TEMPLATES[self.name].marks
        return next((mark for mark in marks if mark not in vocabulary), None)

    @property
    def chat(self) -> Chat:
        """The format as the model is asked with it."""
        return Chat(self.tokenizer, ChatTemplate(self.own)) if self.own else Chat.named(self.name, self.tokenizer)

    def encode(self, turns: Turns, system: str = "", image_tokens: Sequence[int] = ()) -> Encoded:
        """A conversation as token ids with labels; `image_tokens`: how many tokens stand for each of its images.

        The text is tokenised as a whole, so that a word at a border is split as it is in a prompt.

        Raises:
            ValueError: the number of images is not that of their places, or the format has no place for a turn.
        """
        pieces = self.chat.dialogue(turns, system, image_tokens, image_first=self.image_first)
        found = tokens_of(self.tokenizer, pieces)
        labels = [token if learned else IGNORE for token, learned in zip(found.ids, found.learned, strict=True)]
        return Encoded(found.ids, labels)


def encode(tokenizer: PreTrainedTokenizerBase, turns: Turns, image_tokens: int, max_length: int = 4096) -> Encoded:
    """Questions and answers about one image in ChatML, the image in front of the first question: the embedded suites'.

    Raises:
        ValueError: no turn, or a sequence longer than `max_length` tokens.
    """
    if not turns:
        raise ValueError("a conversation needs at least one question and answer")
    (question, answer), *others = turns
    asked = [(f"{IMAGE}\n{question}", answer), *others]
    sample = Template("chatml", tokenizer).encode(asked, image_tokens=[image_tokens])
    if len(sample.input_ids) > max_length:
        raise ValueError(f"a sequence of {len(sample.input_ids)} tokens is longer than the limit of {max_length}")
    return sample


def ask_as_trained(processor: Processor, recipe: Recipe) -> None:
    """Give `processor`, in place, the chat template of stage 2 where the recipe names one that shows questions."""
    data = recipe.data(2)
    if data is not None and data.template is not None and TEMPLATES[data.template].asks:
        processor.chat_template = Chat.named(data.template, processor.tokenizer).template.jinja
