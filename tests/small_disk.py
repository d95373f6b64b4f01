"""Small file systems that a test fills: tmpfs mounts, which need root."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_LAZILY = 2  # MNT_DETACH: the mount goes when the last process has closed its files

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")


class SmallDisk:
    """A file system of a few megabytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def free(self) -> int:
        """Bytes that are left."""
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Take all room but so many bytes."""
        while (taken := self.free - leave) > 0:
            # Who has files there may take some of it between the two calls.
            try:
                with self._ballast.open("ab") as file:
                    os.posix_fallocate(file.fileno(), file.tell(), taken)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            else:
                return

    def make_room(self) -> None:
        """Give back what :meth:`fill` took."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a file system of that size on a new folder, and remove it at the end."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        ctypes.CDLL(None, use_errno=True).umount2(str(folder).encode(), _LAZILY)
