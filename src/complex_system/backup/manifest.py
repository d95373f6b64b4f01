"""The folder of a backup: written completely or not at all, with a manifest that names every file with its digest."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from complex_system.errors import BackupError

MANIFEST = "manifest.json"
FORMAT = 1
"""Of the folder; a release reads its own format and earlier ones."""

Say = Callable[[str], None]


class NotedFile(msgspec.Struct, frozen=True):
    """A file of the backup."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds.

    Attributes:
        format: Of the folder.
        made: ISO time (UTC) at which the backup began.
        release: Of this software.
        deployment: Name of the deployment.
        data_set: Name of the data set.
        pipeline: Its pipeline version.
        parts: Which parts there are, see ``backup.deployment``.
        database: ``MongoDB`` or ``MariaDB``; empty without the database.
        rows: Rows by table.
        tables: Statements that create the tables.
        messages: Messages by stream.
        files: By their path in the folder.
    """

    format: int = FORMAT
    made: str
    release: str
    deployment: str
    data_set: str
    pipeline: str
    parts: tuple[str, ...]
    database: str = ""
    rows: dict[str, int] = {}
    tables: dict[str, str] = {}
    messages: dict[str, int] = {}
    files: dict[str, NotedFile] = {}


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder``, which becomes it at the end; after a failure nothing stays.

    Raises:
        BackupError: There is something already, or it cannot be written there.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BackupError(f"{folder} exists and is not an empty folder; name another one for this backup.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))  # only its owner can read it
    except OSError as error:
        raise BackupError(f"No backup can be written to {folder}: {error.strerror}.") from error
    try:
        yield temporary
        temporary.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise BackupError(f"The backup cannot be written to {folder}: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest with the digests of all files, and wait until everything is on disk."""
    files = dict(_noted(folder, sync=True))
    encoded = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(manifest, files=files)), indent=1)
    with (folder / MANIFEST).open("wb") as file:
        file.write(encoded + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a backup.

    Raises:
        BackupError: There is no backup, or one of a format that this release does not know.
    """
    try:
        encoded = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BackupError(f"{folder} is not a backup: its {MANIFEST} cannot be read ({error.strerror}).") from error
    try:
        found = msgspec.json.decode(encoded, type=dict[str, msgspec.Raw])
        version = msgspec.json.decode(found["format"], type=int)
        if version > FORMAT:
            raise BackupError(
                f"{folder} is a backup of format {version}, and this release reads {FORMAT}: restore it with a newer release."
            )
        return msgspec.json.decode(encoded, type=Manifest)
    except (msgspec.MsgspecError, KeyError) as error:
        raise BackupError(f"{folder / MANIFEST} is damaged: {error}") from error


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare all files with the manifest.

    Raises:
        BackupError: One is missing, changed, or not in the manifest.
    """
    there = {path.relative_to(folder).as_posix() for path in _files(folder)}
    faults = [f"{name} is missing" for name in sorted(set(manifest.files) - there)]
    faults += [f"{name} is not in the manifest" for name in sorted(there - set(manifest.files))]
    faults += [
        f"{name} has changed" for name, noted in _noted(folder, sync=False) if manifest.files.get(name, noted) != noted
    ]
    if faults:
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise BackupError(f"The backup in {folder} is damaged: {'; '.join(faults[:5])}{more}. Nothing was restored.")


def copy_files(source: Path, target: Path, without: Callable[[Path], bool] = lambda _: False) -> int:
    """Copy a folder; return the number of files. What disappears meanwhile is left out.

    Args:
        source: The folder.
        target: Made where it is missing.
        without: Says of a path below ``source`` whether it is left out.
    """
    copied = 0
    target.mkdir(parents=True, exist_ok=True)
    for path in _files(source):
        relative = path.relative_to(source)
        if without(relative):
            continue
        try:
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / relative)
            copied += 1
        except FileNotFoundError:
            (target / relative).unlink(missing_ok=True)
    return copied


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if path != folder / MANIFEST and path.is_file():
                yield path


def _noted(folder: Path, *, sync: bool) -> Iterator[tuple[str, NotedFile]]:
    for path in _files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if sync:
                os.fsync(file.fileno())
        yield path.relative_to(folder).as_posix(), NotedFile(path.stat().st_size, digest)
    if sync:
        for root, _, _ in os.walk(folder):
            _sync(Path(root))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
