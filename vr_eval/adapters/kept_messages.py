"""Messages of questions with their decoded images, kept for the next cell: every cell of a run asks the same ones."""

from __future__ import annotations

from collections import OrderedDict

from PIL.Image import Image

from vr_eval.adapters.questions import Messages, Question

CAPACITY_BYTES = 512 * 1024**2
"""Room for the images of the embedded suites. Where they do not fit, they are decoded again for every cell."""

TEXT_BYTES = 1024
"""What a question counts beside its images."""


class KeptMessages:
    """The last used give way last; what comes out must not be changed. For one thread."""

    def __init__(self, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self.capacity_bytes = capacity_bytes
        self._held = 0
        self._kept: OrderedDict[tuple[str, int, str], tuple[Messages, int]] = OrderedDict()

    def of(self, question: Question) -> Messages:
        """The messages of a question; may raise what its `load` raises."""
        if question.key in self._kept:
            self._kept.move_to_end(question.key)
            return self._kept[question.key][0]
        messages = question.load()
        size = TEXT_BYTES + sum(_bytes(part.get("image")) for said in messages for part in said["content"])
        self._kept[question.key] = messages, size
        self._held += size
        while self._held > self.capacity_bytes:
            self._held -= self._kept.popitem(last=False)[1][1]
        return messages


def _bytes(image: object) -> int:
    if not isinstance(image, Image):
        return 0
    image.load()  # decoded once, here, and not again by everyone who reads it
    return image.width * image.height * len(image.getbands())
