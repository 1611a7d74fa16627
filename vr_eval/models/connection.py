"""Downloads that go on where they were when a connection breaks off, through the hub's own library.

The library asks for the rest of a file after an orderly end of a connection and after a timeout. After a reset, which
is how most of them break off, it begins anew, and of what has come it keeps whole blocks of 10 MB only.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
from huggingface_hub import constants, get_session

BLOCK = 65_536
"""Bytes that are written at once, and so the most that comes twice."""


def steady() -> None:
    """Make it so for all downloads of this process, as long as the library keeps its connection."""
    if constants.HF_HUB_OFFLINE:
        return
    constants.DOWNLOAD_CHUNK_SIZE = BLOCK
    client = get_session()
    hooks = client.event_hooks
    if _as_end not in hooks["response"]:
        client.event_hooks = {**hooks, "response": [*hooks["response"], _as_end]}


def _as_end(response: httpx2.Response) -> None:
    if isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _Stream(response.stream)


class _Stream(httpx2.SyncByteStream):
    """The body of an answer, in which a reset looks like an end before its time."""

    def __init__(self, body: httpx2.SyncByteStream) -> None:
        self.body = body

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self.body
        except httpx2.ReadError as error:
            raise httpx2.RemoteProtocolError(f"the connection was reset: {error}") from error

    def close(self) -> None:
        self.body.close()
