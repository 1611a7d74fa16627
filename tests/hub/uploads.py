"""The hub's side of an upload: a new repository, which files go to large storage, their content, and the commit.

As the hub does: a large file is sent to another host (at an address for this file alone, without the user's token),
then verified, and a commit may only name large files that are there; the card's metadata is checked before.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.hub.content import File as Held
from tests.hub.content import Repository

OWNER = "me"
"""Who the user of any token is."""


@dataclass
class Uploads:
    """What has been sent of large files, by SHA-256."""

    contents: dict[str, bytes] = field(default_factory=dict)

    def put(self, digest: str, content: bytes) -> bool:
        """Keep what a user sends to storage; false where it is not what its address says."""
        if hashlib.sha256(content).hexdigest() != digest:
            return False
        self.contents[digest] = content
        return True

    def batch(self, body: bytes, hub: str, storage: str, path: str) -> dict[str, Any]:
        """Where each object is to be sent; nowhere if it is there already."""
        objects: list[dict[str, Any]] = []
        for one in json.loads(body)["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.contents:
                verify = {"href": f"{hub}{path.removesuffix('/objects/batch')}/verify", "header": {}}
                upload = {"href": f"{storage}/upload/{one['oid']}", "header": {}}
                entry["actions"] = {"upload": upload, "verify": verify}
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}

    def verified(self, body: bytes) -> bool:
        """Whether an object is there, in its size."""
        given = json.loads(body)
        return len(self.contents.get(given["oid"], b"")) == given["size"]

    def commit(self, repository: Repository, branch: str, body: bytes) -> str:
        """A new commit of what is there and what the lines of `body` add; its name. KeyError: content is missing."""
        lines = [json.loads(line) for line in body.splitlines()]
        assert lines[0]["key"] == "header"
        assert lines[0]["value"]["summary"]
        before = repository.commits[repository.branches[branch]] if branch in repository.branches else {}
        files = {path: file.content for path, file in before.items()}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.contents[value["oid"]]
            else:
                raise KeyError(line["key"])
        return repository.commit(files, branch)


def upload_modes(body: bytes) -> dict[str, Any]:
    """Which of the files that are announced go to large storage."""
    files = [one["path"] for one in json.loads(body)["files"]]
    modes = {path: "lfs" if Held(path, b"").lfs else "regular" for path in files}
    return {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]}


def card_errors(body: bytes) -> list[dict[str, str]]:
    """What is wrong with the metadata at the top of a card."""
    parts = json.loads(body)["content"].split("---\n")
    try:
        content = yaml.safe_load(parts[1]) if parts[0] == "" and len(parts) > 2 else None
    except yaml.YAMLError as error:
        return [{"message": str(error)}]
    if not isinstance(content, dict):
        return [{"message": "there is no metadata"}]
    lists = [key for key in ("tags", "base_model", "model-index") if not isinstance(content.get(key, []), list)]
    return [{"message": f'"{key}" must be an array'} for key in lists]
