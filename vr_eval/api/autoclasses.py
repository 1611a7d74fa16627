"""After ``import vr_eval``, the Auto classes of transformers know our checkpoints. Light: never imports torch itself.

transformers has no entry point for models of other packages: a class must be registered, and for that it must be
imported, which brings torch, and ``import vr_eval`` must not (``vr-eval plan`` takes a quarter of a second). So our
classes, each of which registers itself where it is defined, are imported right behind the Auto classes: at once where
those are here already, and else the moment that somebody imports them, who then has torch anyway. The order of
``import vr_eval`` and ``from transformers import AutoModel`` makes no difference.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import MappingProxyType, ModuleType

_AUTO = "transformers.models.auto"
_BEHIND = MappingProxyType(
    {
        f"{_AUTO}.configuration_auto": "vr_eval.models.config",
        f"{_AUTO}.modeling_auto": "vr_eval.models.lvlm",
        f"{_AUTO}.image_processing_auto": "vr_eval.models.tiling.tokenpacker_hd",
        f"{_AUTO}.processing_auto": "vr_eval.models.tiling.tokenpacker_hd",
    }
)
"""Modules of Auto classes, and ours that register with them."""


def announce() -> None:
    """See to it that the Auto classes know our checkpoints; done by ``import vr_eval``."""
    for theirs, ours in _BEHIND.items():
        if theirs in sys.modules:
            _import(ours)
    sys.meta_path.insert(0, _Behind())


class _Behind:
    """Finds the modules of `_BEHIND` where they are, and imports ours once they are run; finds nothing else.

    It derives from no class: importlib's own would import temporary files, random numbers and more.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _BEHIND:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        loader = spec.loader if spec is not None else None
        if spec is None or loader is None:
            return None
        run = loader.exec_module

        def run_both(module: ModuleType) -> None:
            run(module)
            _import(_BEHIND[fullname])

        # On this one loader: it stays transformers' own in everything else (sources, resources).
        loader.exec_module = run_both  # type: ignore[method-assign]
        return spec


def _import(module: str) -> None:
    # Where one of our own modules is being imported and brought transformers, it is still without its names; those
    # that it belongs to register themselves when it is done.
    ours = (one for name, one in list(sys.modules.items()) if name.startswith("vr_eval.models."))
    if not any(getattr(one.__spec__, "_initializing", False) for one in ours):
        import_module(module)
