"""``fiot extras backup`` and ``fiot extras restore``: a whole deployment into a folder, while it runs, and back into an empty one.

The parts are copied in this order, so that they fit together although everything goes on meanwhile:

1. The streams, first the ingest's and then the dead letters. A message leaves them only when the database or another stream has it, so
   what is acknowledged when the backup begins is in one of the copies. What is in two of them is harmless: keys make repeats so.
2. The database: results, then raw records, see ``storage.copies``. It may name models; these are in MLflow already, which is later.
3. MLflow: the database, and then the artifacts.
4. W&B's folder: the pointer to the newest artifact, and then the artifacts.
5. The declaration.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from complex_system import __version__
from complex_system.backup.manifest import Manifest, Say, copy_files, new_folder, read_manifest, verify, write_manifest
from complex_system.backup.parquet import TablesReader, TablesWriter
from complex_system.backup.places import DATABASE, DECLARATION, MLFLOW, STREAMS, WANDB, Place, Where
from complex_system.domain.dataset import Dataset
from complex_system.errors import BackupError
from complex_system.messaging.ingest.snapshots import STREAMS as STREAM_NAMES
from complex_system.messaging.ingest.snapshots import StreamSnapshots
from complex_system.storage.copies import StoreCopy
from complex_system.tracking.artifact_store import ArtifactStore
from complex_system.tracking.wandb import artifact_folder

MLFLOW_FILES = (MLFLOW_STORE, MLFLOW_ARTIFACTS) = ("mlflow.db", "artifacts")
"""What is copied of MLflow's folder: not its accounts."""

_TRIES = 3
_BUSY_SECONDS = 60.0
_WANDB_CACHES = {("artifacts", "obj"), ("artifacts", "staging")}


def backup_command(where: Where, folder: Path, say: Say, without: Collection[str] = ()) -> None:
    """Make a backup; see :func:`back_up`."""
    with where.place(empty=False) as place:
        asyncio.run(back_up(place, where.deployment.name, folder, say, without))


def restore_command(where: Where, folder: Path, say: Say) -> None:
    """Restore a backup; see :func:`restore`."""
    read_manifest(folder)  # before a server is started
    with where.place(empty=True) as place:
        asyncio.run(restore(place, folder, say))


async def back_up(place: Place, deployment: str, folder: Path, say: Say, without: Collection[str] = ()) -> Manifest:
    """Copy a deployment into a folder that is not there yet.

    Args:
        place: Where its parts are.
        deployment: Its name.
        folder: Of the backup.
        say: Shows the progress.
        without: Parts to leave out.

    Raises:
        ComplexSystemError: A part cannot be read, or the folder cannot be written. Nothing stays there.
    """
    dataset = Dataset.load(place.config_dir, target=place.settings.target)
    parts = tuple(part for part in place.parts if part not in without)
    manifest = Manifest(
        made=datetime.now(UTC).isoformat(timespec="seconds"), release=__version__, deployment=deployment,
        data_set=dataset.name, pipeline=dataset.version, parts=parts,
    )  # fmt: skip
    say(f"copies {place.description}: {', '.join(parts)}")
    with new_folder(folder) as new:
        if STREAMS in parts:
            manifest = replace(manifest, messages=await _save_streams(place, new / STREAMS))
            say(f"streams: {sum(manifest.messages.values()):,} messages")
        if DATABASE in parts:
            manifest = await _save_database(place, new / DATABASE, say, manifest)
            say(f"{manifest.database}: {_listed(manifest.rows)}")
        if MLFLOW in parts:
            say(await asyncio.to_thread(_save_mlflow, _known(place.mlflow, MLFLOW), new / MLFLOW))
        if WANDB in parts:
            say(await asyncio.to_thread(_save_wandb, _known(place.wandb, WANDB), new / WANDB))
        if DECLARATION in parts:
            say(f"declaration: {copy_files(place.config_dir, new / DECLARATION):,} files")
        await asyncio.to_thread(write_manifest, new, manifest)
    say(f"the backup is in {folder}")
    return read_manifest(folder)


async def restore(place: Place, folder: Path, say: Say) -> Manifest:
    """Write a backup into a deployment that is empty and whose services do not run.

    Args:
        place: Where its parts belong.
        folder: Of the backup.
        say: Shows the progress.

    Raises:
        ComplexSystemError: The backup is damaged or of another kind of deployment, or this one is not empty: nothing was changed. Or a
            part cannot be written: what was written has been removed again.
    """
    manifest = read_manifest(folder)
    say(f"checks the backup of '{manifest.deployment}' of {manifest.made} by release {manifest.release}")
    await asyncio.to_thread(verify, folder, manifest)
    if missing := [part for part in manifest.parts if part not in place.parts]:
        raise BackupError(f"The backup has {', '.join(missing)}, which {place.description} does not have.")
    say(f"restores into {place.description}: {', '.join(manifest.parts)}")
    async with AsyncExitStack() as stack:
        streams = await stack.enter_async_context(_snapshots(place)) if STREAMS in manifest.parts else None
        store = await stack.enter_async_context(_opened(place)) if DATABASE in manifest.parts else None
        await _refuse_what_is_not_empty(place, folder, manifest, streams, store)
        async with AsyncExitStack() as undo:
            if store is not None:
                say(await _restore_database(store, folder / DATABASE, manifest, say, undo))
            if streams is not None:
                for name in manifest.messages:
                    undo.push_async_callback(streams.delete, name)
                    await streams.restore(name, folder / STREAMS / name)
                say(f"streams: {sum(manifest.messages.values()):,} messages")
            for part, target in ((MLFLOW, place.mlflow), (WANDB, place.wandb)):
                if part in manifest.parts:
                    say(await asyncio.to_thread(_restore_files, folder / part, _known(target, part), undo))
            if DECLARATION in manifest.parts:
                say(await asyncio.to_thread(_restore_files, folder / DECLARATION, place.config_dir, undo))
            undo.pop_all()
    say(f"{place.description} is as it was when the backup was made; start it")
    return manifest


async def _save_streams(place: Place, folder: Path) -> dict[str, int]:
    async with _snapshots(place) as streams:
        return {
            name: await streams.save(name, folder / name)
            for name in STREAM_NAMES
            if await streams.messages(name) is not None
        }


async def _save_database(place: Place, folder: Path, say: Say, manifest: Manifest) -> Manifest:
    async with _opened(place) as store:
        writer = TablesWriter(folder, await store.counts(), say)
        try:
            tables = await store.read(writer.add)
            await asyncio.to_thread(writer.close)
        finally:
            writer.stop()
        return replace(manifest, database=store.label, rows=dict(writer.rows), tables=tables)


def _save_mlflow(folder: Path, target: Path) -> str:
    """Copy MLflow's database, and then its artifacts; return what there is.

    SQLite's own backup copies the database as it is at one moment, also while the server writes. What it names was uploaded before, so
    it is among the artifacts, which are copied afterwards.

    Raises:
        BackupError: There is no such database.
    """
    store = folder / MLFLOW_STORE
    if not store.is_file():
        raise BackupError(
            f"MLflow has no {MLFLOW_STORE} in {folder}. Name its folder with --mlflow-dir; with another database, leave it out with "
            "--without mlflow and use the tools of its database and its object store."
        )
    target.mkdir(parents=True)
    try:
        with (
            closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)) as source,
            closing(sqlite3.connect(target / MLFLOW_STORE)) as copy,
        ):
            source.backup(copy)
            [(health,)] = copy.execute("PRAGMA quick_check(1)").fetchall()
            if health != "ok":
                raise BackupError(f"MLflow's database {store} is damaged: {health}.")
            counts = [
                copy.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608 - our own names
                for table in ("runs", "model_versions")
            ]
    except sqlite3.Error as error:
        raise BackupError(f"MLflow's database {store} cannot be copied: {error}.") from error
    files = copy_files(folder / MLFLOW_ARTIFACTS, target / MLFLOW_ARTIFACTS)
    return f"MLflow: {counts[0]:,} runs, {counts[1]:,} model versions, {files:,} artifact files"


def _save_wandb(folder: Path, target: Path) -> str:
    """Copy W&B's runs and the artifact store, without what is being written and what is only cached; return what there is."""
    store, copy = ArtifactStore(artifact_folder(str(folder))), ArtifactStore(artifact_folder(str(target)))
    for _ in range(_TRIES):
        # The pointer is copied before what it points to, which could only be missing if it was replaced and removed meanwhile.
        files = copy_files(folder, target, _is_temporary)
        newest = copy.newest()
        if newest is None or copy.has(newest):
            return f"W&B: {files:,} files, {len(copy.digests()):,} artifacts"
        shutil.rmtree(target)
    raise BackupError(f"The newest artifact in {folder} is missing: {store.newest()}.")


def _is_temporary(path: Path) -> bool:
    return path.parts[:2] in _WANDB_CACHES or any(part.startswith((".writing-", ".newest-")) for part in path.parts)


async def _restore_database(store: StoreCopy, folder: Path, manifest: Manifest, say: Say, undo: AsyncExitStack) -> str:
    reader = TablesReader(folder, manifest.rows, say)

    async def discard() -> None:
        reader.stop()
        await store.close()  # which waits for a thread that still writes
        await store.open()
        await store.discard()

    undo.push_async_callback(discard)
    waiting = await store.write(manifest.tables, reader.rows)
    counts = await store.counts()
    if counts != manifest.rows:
        raise BackupError(f"{store.label} has {_listed(counts)} now, and the backup {_listed(manifest.rows)}.")
    more = f"; {waiting:,} raw records, processed while the backup was made, wait to be processed again" if waiting else ""
    return f"{store.label}: {_listed(counts)}{more}"


def _restore_files(source: Path, target: Path, undo: AsyncExitStack) -> str:
    for path in [path for path in source.rglob("*") if path.is_file()]:
        new = target / path.relative_to(source)
        if not new.exists():
            undo.callback(_remove, new)
    try:
        files = copy_files(source, target)
        if os.geteuid() == 0:
            _give_to_owner(source, target)
        return f"{source.name}: {files:,} files"
    except OSError as error:
        raise BackupError(f"{source.name} cannot be restored into {target}: {error}.") from error


def _give_to_owner(source: Path, target: Path) -> None:
    """Give what root has copied to whoever the folder belongs to: a service in a container is another user, and writes there."""
    owner = target.stat()
    for path in source.rglob("*"):
        new = target / path.relative_to(source)
        if new.exists():
            os.chown(new, owner.st_uid, owner.st_gid)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


async def _refuse_what_is_not_empty(
    place: Place, folder: Path, manifest: Manifest, streams: StreamSnapshots | None, store: StoreCopy | None
) -> None:
    """Raise an error that names all that stands in the way."""
    found = []
    if streams is not None:
        if await streams.is_answered():
            found.append("its services run; stop them first")
        messages = {name: await streams.messages(name) for name in manifest.messages}
        found += [f"the stream {name} has {count:,} messages" for name, count in messages.items() if count]
    if store is not None:
        if store.label != manifest.database:
            raise BackupError(
                f"The backup is of {manifest.database}, and this deployment has {store.label}. Nothing was restored."
            )
        found += [f"{store.label} has {_listed(rows)}" for rows in [_records(await store.counts())] if rows]
    if MLFLOW in manifest.parts:
        mlflow = _known(place.mlflow, MLFLOW)
        found += [f"{mlflow / name} is there" for name in MLFLOW_FILES if (mlflow / name).exists()]
    if WANDB in manifest.parts and _has_files(wandb := _known(place.wandb, WANDB)):
        found.append(f"{wandb} has files")
    if DECLARATION in manifest.parts and (others := _other_files(folder / DECLARATION, place.config_dir)):
        found.append(f"{place.config_dir} has another {', '.join(others[:3])}; put it away, if the backup's is meant")
    if found:
        raise BackupError(f"Only an empty deployment can be restored: {'; '.join(found)}. Nothing was changed.")


def _other_files(backup: Path, folder: Path) -> list[str]:
    """Return the files of the declaration that a folder has with another content than the backup."""
    names = [path.relative_to(backup) for path in sorted(backup.rglob("*")) if path.is_file()]
    return [
        str(name)
        for name in names
        if (folder / name).is_file() and (folder / name).read_bytes() != (backup / name).read_bytes()
    ]


def _has_files(folder: Path) -> bool:
    """Return whether there is a file below a folder."""
    return any(path.is_file() for path in folder.rglob("*")) if folder.is_dir() else False


@asynccontextmanager
async def _snapshots(place: Place) -> AsyncIterator[StreamSnapshots]:
    streams = await StreamSnapshots.open(place.settings)
    try:
        yield streams
    finally:
        await streams.close()


@asynccontextmanager
async def _opened(place: Place) -> AsyncIterator[StoreCopy]:
    store: StoreCopy
    if place.database == "database_mongo":
        from complex_system.storage.mongo.copy import MongoCopy

        store = MongoCopy(place.settings)
    elif place.database == "database_maria":
        from complex_system.storage.maria.copy import MariaCopy

        store = MariaCopy(place.settings)
    else:
        raise BackupError(
            f"The database of '{place.database}' is not one of those that are backed up here, MongoDB and MariaDB. Use its own tools, "
            "and make the backup of the rest with --without database."
        )
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def _known(folder: Path | None, part: str) -> Path:
    if folder is None:
        raise BackupError(
            f"It is not known which folder on this machine holds the data of {part}: name it with --{part}-dir, or leave it out with "
            f"--without {part} and use the tools of its own server (docs/deployment.md#back-up-and-restore)."
        )
    return folder


def _records(rows: dict[str, int]) -> dict[str, int]:
    """Return the rows without the note on the declaration, which a service leaves when it starts."""
    return {name: count for name, count in rows.items() if name != "columns"}


def _listed(rows: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in rows.items()) or "no rows"
