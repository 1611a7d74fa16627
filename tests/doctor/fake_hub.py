"""A hub on this machine with one model, so that downloads are those of the hub's own library."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """One model; what is asked of it.

    Attributes:
        address: As of the hub itself.
        files: Content by name.
        broken: Names that it fails to send.
        sent: Names that it sent, in order.
    """

    def __init__(self, name: str, files: dict[str, bytes]) -> None:
        self.name, self.files = name, files
        self.address = ""
        self.broken: set[str] = set()
        self.sent: list[str] = []

    def answer(self, request: BaseHTTPRequestHandler, *, whole: bool) -> None:
        """Answer a HEAD or (`whole`) a GET."""
        path = request.path.split("?")[0]
        if "/resolve/" in path:
            name = path.rsplit("/", 1)[1]
            if name not in self.files or (whole and name in self.broken):
                return self._send(request, 410, b"")
            if whole:
                self.sent.append(name)
            return self._send(request, 200, self.files[name], whole=whole)
        if path.startswith(f"/api/models/{self.name}"):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
            about = {"id": self.name, "sha": COMMIT, "siblings": siblings}
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
            ]
            return self._send(request, 200, json.dumps(tree if "/tree/" in path else about).encode())
        return self._send(request, 200 if path == "/" else 404, b"")

    def _send(self, request: BaseHTTPRequestHandler, status: int, content: bytes, *, whole: bool = True) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.end_headers()
        if whole:
            request.wfile.write(content)


@contextmanager
def fake_hub(name: str, files: dict[str, bytes]) -> Iterator[FakeHub]:
    """Serves `files` as the model `name` until the end of the block."""
    hub = FakeHub(name, files)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            hub.answer(self, whole=False)

        def do_GET(self) -> None:
            hub.answer(self, whole=True)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
