"""Records as they come from outside: what is accepted, what is refused, and with which words.

A record is *well-formed* when it is a mapping with declared fields of the declared types; that much is checked before
anything is written. Whether its values can be processed (categories, ranges) is the pipeline's question.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from uuid6 import uuid7

from complex_system.domain.dataset import ID, Dataset
from complex_system.errors import InvalidRecordError, InvalidRequestError

MAX_FAULTS = 20
"""How many faults of a batch are reported at once."""

_LARGEST = 1.7976931348623157e308
_Finite = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]  # NaN and infinities fail both bounds
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]

Record = dict[str, Any]


def new_id() -> str:
    """A new key: a UUID of version 7, so that keys rise with time and pages by key follow the order of arrival."""
    return str(uuid7())


class RecordCheck:
    """Checks records of one shape; the work is done by a compiled ``msgspec`` type."""

    def __init__(self, name: str, fields: list[tuple[str, Any, bool]]) -> None:
        """Makes a check.

        Args:
            name: What to call a record in messages.
            fields: Name, type and whether a record must have it.
        """
        self._struct = msgspec.defstruct(
            name,
            [(f"f{i}", t) if needed else (f"f{i}", t | None, None) for i, (_, t, needed) in enumerate(fields)],
            rename={f"f{i}": field for i, (field, _, _) in enumerate(fields)},
            forbid_unknown_fields=True,
            kw_only=True,
            gc=False,
        )
        self._many = list[self._struct]  # type: ignore[name-defined]

    def __call__(self, value: object) -> list[Record]:
        """Returns the records with every declared field present (None where missing) and numbers as floats.

        Raises:
            InvalidRequestError: ``value`` is no list of mappings.
            InvalidRecordError: A record is malformed; names record and field of the first 20 faults.
        """
        if not isinstance(value, list):
            raise InvalidRequestError(f"A list of records is expected, not {_kind(value)}.")
        try:
            rows = msgspec.convert(value, self._many)
        except msgspec.ValidationError:
            faults = self.faults(value)
            raise InvalidRecordError(sentence(faults), faults) from None
        records: list[Record] = msgspec.to_builtins(rows)
        return records

    def faults(self, value: list[Any]) -> list[dict[str, Any]]:
        """The first 20 faults, one a record."""
        found: list[dict[str, Any]] = []
        for position, record in enumerate(value):
            try:
                msgspec.convert(record, self._struct)
            except msgspec.ValidationError as error:
                problem, field = _explain(str(error))
                key = record.get(ID) if isinstance(record, dict) else None
                found.append({"record": position, "id": key, "field": field, "problem": problem})
                if len(found) == MAX_FAULTS:
                    break
        return found


def raw_check(dataset: Dataset) -> RecordCheck:
    """The check of raw records; the key may be missing, see :func:`with_ids`."""
    fields: list[tuple[str, Any, bool]] = [(ID, _Id, False)]
    for column in dataset.columns:
        kind = _Finite if column.type == "number" else str
        fields.append((column.name, kind, not column.optional))
    return RecordCheck("raw record", fields)


def processed_check(dataset: Dataset) -> RecordCheck:
    """The check of processed records; each needs its key and all features."""
    fields: list[tuple[str, Any, bool]] = [(ID, _Id, True), (dataset.target, _Finite, False)]
    fields += [(name, _Finite, True) for name in dataset.feature_names]
    return RecordCheck("processed record", fields)


def with_ids(records: list[Record]) -> list[Record]:
    """Gives a key to every record that has none, in place."""
    for record in records:
        if record.get(ID) is None:
            record[ID] = new_id()
    return records


def _explain(message: str) -> tuple[str, str | None]:
    """Turns a message of msgspec into a problem in our words and the field it is about."""
    problem, _, path = message.partition(" - at `")
    field = path[2:-1] if path.startswith("$.") else None
    if "missing required field" in problem or "unknown field" in problem:
        field = problem.split("`")[1]
        return ("is missing" if "missing" in problem else "is not a declared field"), field
    if "`float" in problem and ("<=" in problem or ">=" in problem):
        return "must be a finite number", field
    if "length" in problem:
        return "must have 1 to 64 characters", field
    if problem.startswith("Expected `") and ", got `" in problem:
        expected, got = problem.split("`")[1], problem.split("`")[3]
        words = {"float": "a number", "str": "a text", "object": "a mapping", "null": "nothing"}
        wanted = " or ".join(words.get(part, part) for part in expected.split(" | "))
        return f"must be {wanted}, not {got}", field
    return problem, field


def sentence(faults: list[dict[str, Any]]) -> str:
    """One sentence for a list of faults: the first in full, the number of the others."""
    first = faults[0]
    where = f"Record {first['record']}" + (f" (id {first['id']})" if first["id"] is not None else "")
    field = f", field '{first['field']}'" if first["field"] else ""
    more = f" {len(faults) - 1} more fault(s) in this batch." if len(faults) > 1 else ""
    return f"{where}{field}: {first['problem']}.{more}"


def _kind(value: object) -> str:
    return {"dict": "a mapping", "str": "a text", "NoneType": "nothing"}.get(type(value).__name__, type(value).__name__)
