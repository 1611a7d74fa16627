"""Tower features of images, kept so that each image goes through a vision tower once for all who look at it. No model.

On disk they are a file per image, with all its levels, in a folder that the workers of a machine and later runs share
(cache_folder.py); in memory they are quick, which shows on small backbones, where a question takes milliseconds.
Whatever is wrong on the disk costs time and changes nothing: a file that is damaged, cut short or of something else is
noticed whenever it is read (feature_file.py), and the image is encoded again.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from vr_eval.cache_folder import CacheFolder
from vr_eval.methods.levels import Level
from vr_eval.models.feature_file import Name, read_levels, write_bytes

MEMORY_BYTES = 2 * 1024**3
"""What one process keeps in memory where nothing is kept on disk."""
MEMORY_BESIDE_DISK_BYTES = MEMORY_BYTES // 4
_WAITING = 8
"""Images that may wait to be written; whoever encodes faster than the disk writes waits for it."""

_log = logging.getLogger(__name__)
_Key = tuple[str, str, str]


class FeatureStore:
    """Hidden states ``(tiles, G*G, D)`` by what made them (the source), image and level, on the CPU, as computed.

    In memory the least recently used give way.

    Attributes:
        encoded: Images that towers have encoded for it.
        found: Images that were asked for and there.
        levels: Hidden states that any of its readers will want; they are all kept when an image is encoded.
    """

    def __init__(
        self, levels: Iterable[Level] = (), capacity_bytes: int | None = None, folder: CacheFolder | None = None
    ) -> None:
        """`capacity_bytes`: in memory; `folder`: on disk, None for nowhere."""
        self.levels = frozenset(levels)
        usual = MEMORY_BYTES if folder is None else MEMORY_BESIDE_DISK_BYTES
        self.capacity_bytes = usual if capacity_bytes is None else capacity_bytes
        self.held_bytes = self.encoded = self.found = 0
        self.folder = folder
        self._kept: OrderedDict[_Key, Tensor] = OrderedDict()
        self._said: set[str] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="vr-eval-features")
        self._waiting: deque[Future[None]] = deque()

    def get(self, source: str, image: str, levels: Sequence[Level]) -> list[Tensor] | None:
        """One tensor ``(tiles, G*G, D)`` per level, or None unless all are there."""
        names = [str(level) for level in levels]
        found = [self._kept.get((source, image, name)) for name in names]
        tensors = [tensor for tensor in found if tensor is not None]
        if len(tensors) == len(names):
            for name in names:
                self._kept.move_to_end((source, image, name))
        elif self.folder is not None and (read := self._read(self.folder, source, image, names)) is not None:
            self._remember(source, image, read)
            tensors = [read[name] for name in names]
        else:
            return None
        self.found += 1
        return tensors

    def put(self, source: str, image: str, hidden: Mapping[Level, Tensor]) -> None:
        """Keep the hidden states of one image, where there is room for them; files are written in the background."""
        named = {str(level): tensor for level, tensor in hidden.items()}
        self._remember(source, image, named)
        if self.folder is None or self.folder.stopped:
            return
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._write, self.folder, source, image, named))

    def flush(self) -> None:
        """Wait until everything that was put is written."""
        while self._waiting:
            self._waiting.popleft().result()

    def _remember(self, source: str, image: str, hidden: Mapping[str, Tensor]) -> None:
        for name, tensor in hidden.items():
            key = (source, image, name)
            if tensor.nbytes > self.capacity_bytes or key in self._kept:
                continue
            self._kept[key] = tensor
            self.held_bytes += tensor.nbytes
        while self.held_bytes > self.capacity_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.held_bytes -= oldest.nbytes
            if self.folder is None:
                full = f"the feature store is full at {self.capacity_bytes / 1024**3:.1f} GiB"
                self._say_once("full", f"{full}: some images will be encoded again for the next cell")

    def _read(self, folder: CacheFolder, source: str, image: str, levels: Sequence[str]) -> dict[str, Tensor] | None:
        """Levels of a file; None where it lacks one, or is none."""
        group = _group(source)
        path = folder.file(group, _file(image))
        try:
            read = read_levels(path, Name(source, image), levels)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            what = "stored vision features are damaged; such images are encoded again"
            self._say_once("damaged", f"{what} (first: {path}: {error})")
            return None
        if read is not None:
            folder.used(group, path)
        return read

    def _write(self, folder: CacheFolder, source: str, image: str, hidden: Mapping[str, Tensor]) -> None:
        """Write a file, with what it holds already of other levels."""
        group, named = _group(source), Name(source, image)
        try:
            before = read_levels(folder.file(group, _file(image)), named) or {}
        except (OSError, ValueError):  # there is none, or it is damaged, which whoever read it has said
            before = {}
        folder.write(group, _file(image), write_bytes(named, {**before, **hidden}))

    def _say_once(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            _log.warning(message)


def _group(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _file(image: str) -> str:
    return f"{image}.safetensors"
