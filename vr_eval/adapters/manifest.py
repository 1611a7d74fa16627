"""How lmms-eval finds our model: the entry point `lmms_eval.models` of pyproject.toml names this function.

It runs at every `import lmms_eval.models`, so it names the class and imports nothing heavy.
"""

from __future__ import annotations

from typing import Any


def manifests() -> list[Any]:
    """One `ModelManifest`: the chat model `vr_eval`."""
    # Only lmms-eval calls this, so what is imported here is imported already.
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="vr_eval", chat_class_path="vr_eval.adapters.lmms.VrEval")]
