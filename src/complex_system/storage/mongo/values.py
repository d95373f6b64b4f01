"""Documents of records: which field keeps which declared column, and what stands in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.records import Record
from complex_system.storage.arrow import PIPELINE, converted, plain, rows_of
from complex_system.storage.mongo.connection import Document


class Fields:
    """The fields of one data set's documents."""

    def __init__(self, dataset: Dataset) -> None:
        """Finds a field for each declared column."""
        self._dataset = dataset
        self.raw = [ID, *(field_of(name) for name in dataset.raw_names)]
        """The key's and the raw columns' fields, in the order of the declaration."""
        self.processed = {name: field_of(name) for name in dataset.processed_names}
        """Fields of the processed columns by name, the key first."""
        self.target = self.processed[dataset.target]
        """The field of the target among the processed ones."""

    def raw_documents(self, records: Iterable[Record]) -> list[Document]:
        """Documents of checked raw records."""
        names, fields = self._dataset.raw_names, self.raw[1:]
        return [
            # MariaDB keeps no sign of zero, so neither does this store; adding 0 takes it away.
            {
                ID: r[ID],
                PIPELINE: "",
                **{f: v + 0.0 if type(v := r[n]) is float else v for f, n in zip(fields, names, strict=True)},
            }
            for r in records
        ]

    def raw_records(self, documents: Iterable[Document]) -> list[Record]:
        """Raw records of documents: the key, then the columns as declared."""
        names = (ID, *self._dataset.raw_names)
        rows = ([str(d[ID]), *(d.get(field) for field in self.raw[1:])] for d in documents)
        return [dict(zip(names, row, strict=True)) for row in converted(rows, plain(self._dataset))]

    def raw_rows(self, documents: Sequence[Document]) -> list[list[object]]:
        """Rows of documents in the order of ``domain.pages.raw_schema``."""
        return [[d.get(field) for field in self.raw] for d in documents]

    def processed_documents(self, table: pa.Table, version: str) -> list[Document]:
        """Documents of processed records by rising key; of equal keys the last record."""
        fields = list(self.processed.values())
        rows = rows_of(table, self._dataset.processed_names)
        return [{**dict(zip(fields, row, strict=True)), PIPELINE: version} for row in rows]


def field_of(name: str) -> str:
    """The field that keeps a column: its own name, but for characters that MongoDB reads as a path or an operator."""
    if name == PIPELINE:
        return "%5F" + name[1:]
    return name.replace("%", "%25").replace(".", "%2E").replace("$", "%24").replace("\0", "%00")
