"""Models for Python code: loading, asking, and our methods in a model of transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vr_eval.catalog.backbone import Loading
from vr_eval.config.checkpoint_folders import checkpoint_named
from vr_eval.config.decoding import given_decoding
from vr_eval.errors import InputError, Problem, nearest
from vr_eval.methods.method_file import load_methods
from vr_eval.models.wrapping import wrap

if TYPE_CHECKING:
    from PIL.Image import Image

    from vr_eval.models.lvlm import LVLM
    from vr_eval.models.processor import Processor

__all__ = ["Loaded", "load_model", "wrap"]

_LOADING = [field.name for field in dataclasses.fields(Loading)]


class Loaded(NamedTuple):
    """A model with its processor: ``model, processor = loaded``."""

    model: LVLM
    processor: Processor

    def ask(
        self,
        images: str | Path | Image | Sequence[str | Path | Image],
        question: str,
        *,
        seed: int = 0,
        **decoding: Any,
    ) -> str:
        """The answer to a question about one image, several or none (``[]``), as an evaluation would ask it.

        Args:
            images: Files or PIL images; they stand in front of the question.
            question: What is asked; the chat template is put around it.
            seed: Where tokens are drawn (``temperature`` above 0).
            decoding: Keys of ``decoding`` in a grid file, e.g. ``max_new_tokens``; greedy search by default.

        Raises:
            InputError: an image cannot be used, or an unknown key of decoding.
            CellError: the model cannot answer.
        """
        from vr_eval.adapters.answering import Answerer
        from vr_eval.adapters.questions import Question
        from vr_eval.models.reading import UnreadableImage, read_image

        rules = given_decoding(decoding, "ask", ("images", "question", "seed"))
        shown = images if isinstance(images, Sequence) and not isinstance(images, str) else [images]
        parts: list[dict[str, Any]] = []
        for image in shown:
            try:
                opened = read_image(Path(image)) if isinstance(image, str | Path) else image
            except UnreadableImage as error:
                raise InputError(Problem(str(error), file=str(image))) from error
            parts.append({"type": "image", "image": opened})
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
        asked = Question("ask", 0, question, {}, lambda: messages)
        return Answerer(self.model, self.processor, decoding=rules, seed=seed).answer([asked])[0].text


def load_model(
    name: str | Path, revision: str = "main", method_file: str | Path | None = None, **loading: Any
) -> Loaded:
    """The model of a checkpoint and its processor, in eval mode.

    Args:
        name: A folder, a model on the hub, or the id of a checkpoint that came with the project or was trained here;
            a checkpoint of ours, of LLaVA or of InternVL.
        revision: Branch, tag or commit on the hub.
        method_file: A Python file in which the checkpoint's method stands; it is executed.
        loading: ``dtype``, ``device_map``, ``attention``, ``bits``, as in ``catalog.backbone.Loading``.

    Raises:
        InputError: there is no such checkpoint, it cannot be loaded, or an unknown key of loading.
    """
    known = ["revision", "method_file", *_LOADING]
    unknown = [key for key in loading if key not in known]
    if unknown:
        given = [(key, nearest(key, known)) for key in unknown]
        allowed = ", ".join(known)
        raise InputError([Problem("unknown argument", key=key, allowed=allowed, nearest=near) for key, near in given])
    from vr_eval.models.checkpoints import open_model
    from vr_eval.models.hub import quiet_loading

    if method_file is not None:
        load_methods(str(method_file))
    quiet_loading()
    folder = checkpoint_named(str(name))
    return Loaded(*open_model(str(folder or name), revision, Loading(**loading)))
