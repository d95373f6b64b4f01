"""The 51 films that ship with kio, as raw records of the data set ``films``."""

from __future__ import annotations

from typing import cast

from kio.dataset import example_dataset

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record, raw_check


def films(dataset: Dataset) -> list[Record]:
    """The films, in kio's order, with keys that stay: ``film-001`` and so on."""
    rows: list[Record] = [
        {ID: f"film-{number:03}", **film} for number, film in enumerate(cast(list[Record], example_dataset), 1)
    ]
    return raw_check(dataset)(rows)
