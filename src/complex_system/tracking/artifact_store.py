"""Artifacts as plain directories, one per digest, with a pointer to the newest. Serving reads the W&B artifact from there.

Writing is atomic: a reader sees an artifact completely or not at all, and the pointer names only what is there. Files and folders are
on disk before the pointer names them. Only the newest artifacts are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from complex_system.errors import ModelRefusedError

NEWEST = "newest"
METADATA = "metadata.json"
KEPT = 20
"""Artifacts that remain after a write."""
_DIGEST_LENGTH = 16
_DIGEST = rf"[0-9a-f]{{{_DIGEST_LENGTH}}}"
_WRITING, _REMOVING = ".writing-", ".removing-"
_LEFT_BEHIND_SECONDS = 3600.0
"""Age at which an unfinished folder belongs to a process that has ended."""


class ArtifactStore:
    """The versions of one artifact below a folder, e.g. ``<wandb_dir>/artifacts/DemonstratorNeuralNet``."""

    def __init__(self, root: str | Path, keep: int = KEPT) -> None:
        """Make it; nothing is read or written.

        Args:
            root: Its folder.
            keep: Artifacts that remain after a write: the newest ones.
        """
        self._root = Path(root)
        self._keep = max(1, keep)

    def write(self, files: dict[str, bytes], metadata: dict[str, Any]) -> str:
        """Write an artifact and make it the newest.

        Args:
            files: Contents by file name.
            metadata: Becomes ``metadata.json``.

        Returns:
            The digest. The same files and metadata give the same digest and are written once.
        """
        contents = {**files, METADATA: json.dumps(metadata, indent=2, sort_keys=True).encode()}
        digest = _digest(contents)
        if not self._root.is_dir():
            self._root.mkdir(parents=True, exist_ok=True)
            _sync(self._root.parent)
        target = self._root / digest
        if not target.is_dir():
            folder = Path(tempfile.mkdtemp(prefix=_WRITING, dir=self._root))
            try:
                folder.chmod(0o755)  # mkdtemp's 0700 would keep other users' services out
                for name, content in contents.items():
                    _write(folder / name, content)
                _sync(folder)
                folder.rename(target)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                if not target.is_dir():  # else another process wrote the same artifact in the meantime
                    raise
        else:
            os.utime(target)  # the newest again, so that it is not removed as an old one
        _sync(self._root)  # before the pointer names it
        pointer = self._root / f".{NEWEST}-{os.getpid()}"
        _write(pointer, digest.encode())
        pointer.replace(self._root / NEWEST)
        _sync(self._root)
        self._remove_old(digest)
        return digest

    def newest(self) -> str | None:
        """Return the digest of the newest artifact, or None as long as there is none."""
        try:
            return (self._root / NEWEST).read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None

    def digests(self) -> list[str]:
        """Return the digests of all artifacts, the oldest first."""
        folders = [path for path in self._root.iterdir() if self.has(path.name)] if self._root.is_dir() else []
        return [path.name for path in sorted(folders, key=lambda path: path.stat().st_mtime_ns)]

    def has(self, digest: str) -> bool:
        """Return whether there is an artifact of that digest."""
        return re.fullmatch(_DIGEST, digest) is not None and (self._root / digest).is_dir()

    def read(self, digest: str) -> tuple[dict[str, bytes], dict[str, Any]]:
        """Return files by name (without ``metadata.json``), and the metadata.

        Raises:
            ModelRefusedError: There is no such artifact, or its files do not match the digest.
        """
        if not re.fullmatch(_DIGEST, digest):
            raise ModelRefusedError(f"'{digest[:40]}' is not the digest of an artifact.")
        folder = self._root / digest
        try:
            contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        except OSError as error:
            raise ModelRefusedError(f"The artifact {digest} cannot be read: {error.strerror}.") from error
        if METADATA not in contents or _digest(contents) != digest:
            raise ModelRefusedError(f"The artifact {digest} is damaged: its files do not match its digest.")
        metadata: dict[str, Any] = json.loads(contents.pop(METADATA))
        return contents, metadata

    def _remove_old(self, newest: str) -> None:
        """Remove all but the newest artifacts, and what processes that were killed have left behind."""
        others = [digest for digest in self.digests() if digest != newest]
        for digest in others[: max(0, len(others) + 1 - self._keep)]:
            # Renamed first: a reader sees it completely or not at all.
            with contextlib.suppress(OSError):
                (self._root / digest).rename(self._root / f"{_REMOVING}{digest}-{os.getpid()}")
        for path in self._root.iterdir():
            with contextlib.suppress(OSError):
                old = path.name.startswith(_WRITING) and time.time() - path.stat().st_mtime > _LEFT_BEHIND_SECONDS
                if old or path.name.startswith(_REMOVING):
                    shutil.rmtree(path, ignore_errors=True)


def _digest(contents: dict[str, bytes]) -> str:
    """Return the first 16 hex digits of the SHA-256 over names, lengths and contents."""
    total = hashlib.sha256()
    for name in sorted(contents):
        total.update(f"{name}\0{len(contents[name])}\0".encode())
        total.update(contents[name])
    return total.hexdigest()[:_DIGEST_LENGTH]


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Bring a folder's entries to disk: a file that is on disk may be missing from its folder after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
