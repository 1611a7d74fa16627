"""A hub on this machine: as much of the Hugging Face hub's interface as its own libraries use, and every request noted.

It is reached through HF_ENDPOINT, by processes of their own: the libraries read that when they are imported. As on the
hub, a file that git holds is answered by a redirect within the hub, and one of large file storage by a redirect to
another host (here: another port), which must not be shown the user's token.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hub.content import File, Repository
from tests.hub.faults import NOTHING, Fault
from tests.hub.uploads import OWNER, Uploads, card_errors, upload_modes

KINDS = {"model": "models", "dataset": "datasets"}


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        host: `hub`, or `storage` for that of large files.
        range: Its Range header, "" without.
        token: What it showed of a login, "" without.
        sent: Bytes of the body that were sent.
    """

    method: str
    path: str
    host: str
    range: str
    token: str
    status: int
    sent: int


@dataclass(frozen=True)
class Reply:
    """An answer before it is sent."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Hub:
    """Repositories, what is to go wrong, and what was asked.

    Attributes:
        address: For HF_ENDPOINT.
        storage: Address of the host that sends large files.
        page: Entries of a tree on one page.
    """

    def __init__(self, repositories: Iterable[Repository]) -> None:
        self.repositories = {(KINDS[one.kind], one.id): one for one in repositories}
        self.address = self.storage = ""
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.page = 1000
        self.uploads = Uploads()
        self.lock = threading.Lock()

    def fault(self, method: str, path: str) -> Fault:
        """The first one that is for this request."""
        with self.lock:
            return next((fault for fault in self.faults if fault.meets(method, path)), NOTHING)

    def note(self, asked: Asked) -> None:
        """Keep a request."""
        with self.lock:
            self.asked.append(asked)

    def take(self) -> list[Asked]:
        """What was asked since the last call."""
        with self.lock:
            taken, self.asked = self.asked, []
        return taken

    def reply(self, method: str, target: str, body: bytes, token: str) -> Reply:
        """The right answer to a request at the hub itself."""
        url = urlsplit(target)
        path, query = unquote(url.path), parse_qs(url.query)
        if path in ("/", "/api/whoami-v2"):
            known = path == "/" or bool(token)
            return _json({"name": "tester", "type": "user"}) if known else _refusal(401, "Unauthorized")
        if method == "POST" and not path.endswith("/paths-info") and "/paths-info/" not in path:
            return (
                self._uploaded(path, body) if token else _refusal(401, "Unauthorized", "Invalid username or password.")
            )
        parts = path.strip("/").split("/")
        cached = parts[:2] == ["api", "resolve-cache"]
        api = parts[0] == "api" and not cached
        parts = parts[2 if cached else 1 if api else 0 :]
        if not api and parts[0] != "datasets" and not cached:
            parts = ["models", *parts]
        found = self._repository(parts)
        if found is None:
            return _refusal(404 if token else 401, "RepoNotFound", "Repository not found")
        repository, rest = found
        if api:
            return self._described(repository, rest, url.path, query, body)
        if cached:
            rest = ["resolve", *rest]
        return self._file(repository, rest, token, whole=cached)

    def _uploaded(self, path: str, body: bytes) -> Reply:
        """Everything that a user who is logged in may send; all are models of `OWNER`."""
        if path == "/api/validate-yaml":
            errors = card_errors(body)
            return Reply(400 if errors else 200, json.dumps({"errors": errors, "warnings": []}).encode())
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization'] or OWNER}/{given['name']}"
            if not name.startswith(f"{OWNER}/"):
                return _refusal(403, "Forbidden", "You don't have the rights to create a model under this namespace")
            if ("models", name) in self.repositories:
                return Reply(409, json.dumps({"url": f"{self.address}/{name}"}).encode())
            self.repositories["models", name] = Repository("model", name)
            self.repositories["models", name].commit({".gitattributes": "*.safetensors filter=lfs\n"})
            return _json({"url": f"{self.address}/{name}"})
        if path.endswith("/info/lfs/objects/batch"):
            return _json(self.uploads.batch(body, self.address, self.storage, path))
        if path.endswith("/info/lfs/verify"):
            return Reply(200 if self.uploads.verified(body) else 404)
        found = self._repository(path.strip("/").split("/")[1:])
        if found is None:
            return _refusal(404, "RepoNotFound", "Repository not found")
        repository, (what, branch) = found
        if what == "preupload":
            return _json(upload_modes(body))
        commit = self.uploads.commit(repository, branch, body)
        return _json({"commitUrl": f"{self.address}/{repository.id}/commit/{commit}", "commitOid": commit})

    def _repository(self, parts: list[str]) -> tuple[Repository, list[str]] | None:
        kind = parts[0]
        for length in (2, 1):
            found = self.repositories.get((kind, "/".join(parts[1 : 1 + length])))
            if found is not None:
                return found, parts[1 + length :]
        return None

    def _described(
        self, repository: Repository, rest: list[str], path: str, query: Mapping[str, list[str]], body: bytes
    ) -> Reply:
        what, *more = rest or ["revision", "main"]
        if what == "refs":
            return _json(repository.refs())
        # A branch may have a slash, which is then quoted in the address; those of these tests have none.
        commit = repository.resolve(more[0]) if more else None
        if commit is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {more[0] if more else ''}")
        if what == "revision":
            return _json(repository.about(commit, blobs="blobs" in query))
        if what == "paths-info":
            asked = parse_qs(body.decode()) if not body.startswith(b"{") else json.loads(body)
            expand = str(asked.get("expand", "")).lower() in ("true", "['true']")
            return _json(repository.paths(commit, asked["paths"], expand=expand))
        expand, recursive = (query.get(name, ["false"])[0].lower() == "true" for name in ("expand", "recursive"))
        entries = repository.tree(commit, "/".join(more[1:]), recursive=recursive, expand=expand)
        if entries is None:
            return _refusal(404, "EntryNotFound", "Entry not found")
        begin = int(query.get("cursor", ["0"])[0])
        headers = {}
        if begin + self.page < len(entries):
            given = {name: values[0] for name, values in query.items()} | {"cursor": str(begin + self.page)}
            asked_next = "&".join(f"{name}={quote(value)}" for name, value in given.items())
            headers["Link"] = f'<{self.address}{path}?{asked_next}>; rel="next"'
        return _json(entries[begin : begin + self.page], headers)

    def _file(self, repository: Repository, rest: list[str], token: str, *, whole: bool) -> Reply:
        if len(rest) < 3 or rest[0] != "resolve":
            return _refusal(404, "EntryNotFound", "Entry not found")
        if repository.readers is not None and token not in repository.readers:
            return _refusal(403 if token else 401, "GatedRepo", f"Access to {repository.id} is restricted")
        commit = repository.resolve(rest[1])
        if commit is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        file = repository.commits[commit].get("/".join(rest[2:]))
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file is None:
            return _refusal(404, "EntryNotFound", "Entry not found", headers)
        headers["ETag"] = f'"{file.etag}"'
        if file.lfs:
            large = {"X-Linked-Size": str(len(file.content)), "X-Linked-ETag": f'"{file.sha256}"'}
            return Reply(302, headers=headers | large | {"Location": f"{self.storage}/{file.sha256}"})
        if not whole:
            place = f"/api/resolve-cache/{KINDS[repository.kind]}/{repository.id}/{commit}/{quote(file.path)}"
            return Reply(307, headers=headers | {"Location": place})
        return Reply(200, file.content, headers)

    def stored(self, path: str) -> Reply:
        """A large file by its hash, as storage sends it."""
        digest = path.strip("/")
        files: Iterator[File] = (
            file
            for repository in self.repositories.values()
            for commit in repository.commits.values()
            for file in commit.values()
        )
        found = next((file for file in files if file.lfs and file.sha256 == digest), None)
        if found is None:
            return Reply(404)
        return Reply(200, found.content, {"Accept-Ranges": "bytes", "ETag": f'"{found.sha256}"'})


def _json(content: Any, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(200, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})


def _refusal(status: int, code: str, message: str = "", headers: Mapping[str, str] | None = None) -> Reply:
    body = json.dumps({"error": message}).encode()
    return Reply(status, body, {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})


class _Handler(BaseHTTPRequestHandler):
    """Sends what `hub` replies, or what a fault makes of it."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    host: str

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        fault = self.hub.fault(self.command, self.path)
        if fault.status:
            reply = Reply(fault.status, b"", fault.headers)
        elif self.host == "storage" and self.command == "PUT":
            reply = Reply(200 if self.hub.uploads.put(self.path.removeprefix("/upload/"), body) else 400)
        elif self.host == "storage":
            reply = self.hub.stored(self.path)
        else:
            reply = self.hub.reply(self.command, self.path, body, token)
        asked = self.headers.get("Range") or ""
        if asked and reply.status == 200:
            reply = _ranged(reply, asked)
        sent = self._send(reply, fault)
        self.hub.note(Asked(self.command, self.path, self.host, asked, token, reply.status, sent))

    def _send(self, reply: Reply, fault: Fault) -> int:
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return 0
        time.sleep(fault.pause)
        if fault.cut is None:
            self.wfile.write(reply.body)
            return len(reply.body)
        self.wfile.write(reply.body[: fault.cut])
        self.wfile.flush()
        time.sleep(0.1)  # a reset throws away what has not arrived
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True
        return fault.cut

    def log_message(self, format: str, *args: object) -> None:
        return


class _Server(ThreadingHTTPServer):
    """Says nothing of connections that a user breaks off."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _ranged(reply: Reply, asked: str) -> Reply:
    """The part of a whole answer that a Range header asks for."""
    first, _, last = asked.removeprefix("bytes=").partition("-")
    size = len(reply.body)
    begin = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1 if first and last else size, size)
    if begin >= size:
        return Reply(416, headers={"Content-Range": f"bytes */{size}"})
    return Reply(206, reply.body[begin:end], {**reply.headers, "Content-Range": f"bytes {begin}-{end - 1}/{size}"})


@contextmanager
def serving(*repositories: Repository) -> Iterator[Hub]:
    """A hub with these repositories, until the end of the block."""
    hub = Hub(repositories)
    servers = []
    for host in ("hub", "storage"):
        handler = type(f"_{host.title()}Handler", (_Handler,), {"hub": hub, "host": host})
        server = _Server(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address, hub.storage = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
