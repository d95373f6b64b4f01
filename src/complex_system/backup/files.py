"""The parts of a deployment that are files: MLflow's SQLite and artifacts, the folder of W&B, and the declaration."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from complex_system.backup.manifest import copy_files
from complex_system.errors import BackupError
from complex_system.tracking.artifact_store import ArtifactStore
from complex_system.tracking.wandb import artifact_folder

MLFLOW_FILES = (MLFLOW_STORE, MLFLOW_ARTIFACTS) = ("mlflow.db", "artifacts")
"""What is copied of MLflow's folder: not its accounts."""

_TRIES = 3
_BUSY_SECONDS = 60.0
_WANDB_CACHES = {("artifacts", "obj"), ("artifacts", "staging")}


def save_mlflow(folder: Path, target: Path) -> str:
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


def save_wandb(folder: Path, target: Path) -> str:
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


def other_files(backup: Path, folder: Path) -> list[str]:
    """Return the files of the declaration that a folder has with another content than the backup."""
    names = [path.relative_to(backup) for path in sorted(backup.rglob("*")) if path.is_file()]
    return [
        str(name)
        for name in names
        if (folder / name).is_file() and (folder / name).read_bytes() != (backup / name).read_bytes()
    ]


def has_files(folder: Path) -> bool:
    """Return whether there is a file below a folder."""
    return any(path.is_file() for path in folder.rglob("*")) if folder.is_dir() else False
