"""Which files without keys were run into a data set's database: a changed file brings all of its records once more."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

_FILE = "files.json"
_SOURCE, _DATABASE = "COMPLEX_SYSTEM_SOURCE_FILE", "FASTIOT_MONGO_DB_NAME"


def warn_of_changed_file(directory: Path, options: Mapping[str, str]) -> str:
    """What to know where the database has records of the file as it was before; empty where it has none.

    Keys of a file without a key column are made of its content, so its records would be there twice, in the parts that models
    train on and in those that they are compared on.

    Args:
        directory: The deployment's, where its data are kept.
        options: What the run was given; those of a file whose records bring no keys.
    """
    known = _read(directory).get(options[_DATABASE], [])
    if not known or _digest(options) in known:
        return ""
    return (
        f"CHECK: the database holds the records of another file, or of {Path(options[_SOURCE]).name} as it was before. Without a key "
        "column the same rows are other records, and so they are there twice, and the errors look smaller than they are: name a key "
        "in 'id', or remove the earlier ones with --fresh"
    )


def remember_file(directory: Path, options: Mapping[str, str]) -> None:
    """Notes that a file without keys goes into its database."""
    read = _read(directory)
    known = read.setdefault(options[_DATABASE], [])
    if (digest := _digest(options)) not in known:
        known.append(digest)
        (directory / _FILE).write_bytes(msgspec.json.encode(read))


def _digest(options: Mapping[str, str]) -> str:
    with Path(options[_SOURCE]).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(directory: Path) -> dict[str, list[str]]:
    try:
        return msgspec.json.decode((directory / _FILE).read_bytes(), type=dict[str, list[str]])
    except (OSError, msgspec.DecodeError):
        return {}
