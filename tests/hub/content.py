"""What a hub holds: repositories with their commits, branches and files, each described as the hub describes it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

LFS = (".safetensors", ".bin", ".model", ".parquet", ".zip", ".tar", ".png", ".jpg")
"""What the hub keeps in large file storage (facts of the .gitattributes that repositories begin with)."""
WHEN = "2024-06-03T10:20:30.000Z"


@dataclass(frozen=True)
class File:
    """One file at one commit."""

    path: str
    content: bytes

    @property
    def lfs(self) -> bool:
        """Whether it is kept apart from git, and sent from another host."""
        return self.path.endswith(LFS)

    @cached_property
    def sha256(self) -> str:
        """Of its content."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def blob(self) -> str:
        """Its name in git: that of its content, or of the pointer that stands for it."""
        content = self.content
        if self.lfs:
            content = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n".encode()
            )
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        """As the hub's library keeps it in its cache."""
        return self.sha256 if self.lfs else self.blob

    def entry(self, *, expand: bool = False) -> dict[str, Any]:
        """As a tree lists it."""
        own: dict[str, Any] = {"type": "file", "oid": self.blob, "size": len(self.content), "path": self.path}
        if self.lfs:
            own["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return own | (_expanded() if expand else {})

    def sibling(self, *, blobs: bool) -> dict[str, Any]:
        """As the description of a repository lists it."""
        own: dict[str, Any] = {"rfilename": self.path}
        if blobs:
            own |= {"size": len(self.content), "blobId": self.blob}
        if blobs and self.lfs:
            own["lfs"] = {"size": len(self.content), "sha256": self.sha256, "pointerSize": 134}
        return own


@dataclass
class Repository:
    """A model or a dataset.

    Attributes:
        kind: What it is.
        id: `OWNER/NAME`, or an old `NAME` alone.
        commits: Files by path, by commit.
        branches: Commit by branch.
        tags: Commit by tag.
        readers: Tokens that may read its files, where it is gated; None where all may.
    """

    kind: Literal["model", "dataset"]
    id: str
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    readers: set[str] | None = None

    def commit(self, files: Path | Mapping[str, bytes | str], branch: str = "main") -> str:
        """Move `branch` to a new commit of exactly these files, or those below a folder; gives its name."""
        found = dict(_below(files) if isinstance(files, Path) else files.items())
        contents = {path: content.encode() if isinstance(content, str) else content for path, content in found.items()}
        held = {path: File(path, contents[path]) for path in sorted(contents)}
        text = "".join(f"{file.path} {file.blob}\n" for file in held.values())
        name = hashlib.sha1(f"{self.id} {self.branches.get(branch)} {text}".encode()).hexdigest()
        self.commits[name] = held
        self.branches[branch] = name
        return name

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, a tag or (the beginning of) a commit's name stands for."""
        named = self.branches.get(revision) or self.tags.get(revision)
        begun = [name for name in self.commits if len(revision) >= 7 and name.startswith(revision)]
        return named or (begun[0] if len(begun) == 1 else None)

    def about(self, commit: str, *, blobs: bool) -> dict[str, Any]:
        """The description of the repository at a commit."""
        files = self.commits[commit]
        own: dict[str, Any] = {"_id": "65f0", "id": self.id, "sha": commit, "private": False, "disabled": False}
        own |= {"author": self.id.partition("/")[0], "gated": "auto" if self.readers is not None else False}
        own |= {"lastModified": WHEN, "createdAt": WHEN, "downloads": 12, "likes": 3, "tags": ["region:us"]}
        own["siblings"] = [file.sibling(blobs=blobs) for file in files.values()]
        if self.kind == "model":
            own["modelId"] = self.id
        readme = files["README.md"].content.decode() if "README.md" in files else ""
        if readme.startswith("---\n"):
            own["cardData"] = yaml.safe_load(readme.split("---\n")[1])
        return own

    def tree(self, commit: str, folder: str, *, recursive: bool, expand: bool) -> list[dict[str, Any]] | None:
        """The entries of a folder; None where there is none."""
        prefix = f"{folder}/" if folder else ""
        inside = [file for path, file in self.commits[commit].items() if path.startswith(prefix)]
        entries: dict[str, dict[str, Any]] = {}
        for file in inside:
            *parents, _ = file.path.removeprefix(prefix).split("/")
            for depth in range(1, len(parents) + 1):
                entry = self._folder(prefix + "/".join(parents[:depth]), expand=expand)
                if recursive or depth == 1:
                    entries.setdefault(entry["path"], entry)
            if recursive or not parents:
                entries[file.path] = file.entry(expand=expand)
        return list(entries.values()) or None

    def paths(self, commit: str, paths: list[str], *, expand: bool) -> list[dict[str, Any]]:
        """The entries of those of `paths` that are there."""
        files = self.commits[commit]
        found = []
        for path in paths:
            if path in files:
                found.append(files[path].entry(expand=expand))
            elif any(name.startswith(f"{path}/") for name in files):
                found.append(self._folder(path, expand=expand))
        return found

    def refs(self) -> dict[str, Any]:
        """Its branches and tags."""

        def listed(names: Mapping[str, str], kind: str) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit} for name, commit in names.items()
            ]

        return {"branches": listed(self.branches, "heads"), "tags": listed(self.tags, "tags"), "converts": []}

    def _folder(self, path: str, *, expand: bool) -> dict[str, Any]:
        own: dict[str, Any] = {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
        return own | {"path": path} | (_expanded() if expand else {})


def _expanded() -> dict[str, Any]:
    return {"lastCommit": {"id": "0" * 40, "title": "Upload files", "date": WHEN}}


def _below(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()
