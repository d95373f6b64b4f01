"""Records as they come from outside: which are accepted, and what is wrong with the others.

A record is *well-formed* when it is a mapping with declared fields of the declared types; that much is checked before
anything is written. Whether its values can be processed (categories, ranges) is the pipeline's question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from complex_system.domain.columns import LARGEST_INTEGER, LISTS, Column
from complex_system.domain.dataset import ID, Dataset
from complex_system.domain.keys import MAX_KEY, new_key
from complex_system.domain.types import MAX_ENTRIES, MAX_TEXT, Finite, Text, Whole, column_type
from complex_system.errors import InvalidRecordError, InvalidRequestError, RecordFault

MAX_FAULTS = 20
"""Faults of a batch that are reported."""
UNDECLARED = "is not a declared field"
"""The problem of a field that no column declares."""

_SHOWN = 60
"""Characters of a bad value that a message shows."""
_UNCOMPILED = frozenset('\\"' + "".join(map(chr, range(32))))
"""Characters of names that ``msgspec`` cannot compile."""
_TYPE_NAMES = {
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
"""What messages call msgspec's types."""
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY)]

Record = dict[str, Any]
"""Values by column, with the key as ``_id``; None for a missing one."""
MoreFaults = Callable[[Record, int], list[RecordFault]]


class RecordCheck:
    """Checks records of one shape with a compiled ``msgspec`` type.

    Attributes:
        compiled: Whether there is one. ``msgspec`` cannot compile names with a quotation mark, a backslash or a line feed, as in the
            headings of spreadsheets; such records are checked value by value.
    """

    def __init__(
        self,
        name: str,
        fields: list[tuple[str, Any, bool]],
        *,
        ignore_unknown: bool = False,
        columns: Sequence[Column] = (),
    ) -> None:
        """Make a check.

        Args:
            name: Of a record, in messages.
            fields: Name, type and whether a record must have it.
            ignore_unknown: Whether undeclared fields are ignored; otherwise they are faults.
            columns: Those of the fields that have values that stand for a missing one (:meth:`Column.is_missing`).
        """
        self._columns = {column.name: column for column in columns}
        self._fields = {field: (t if needed else t | None, needed) for field, t, needed in fields}
        self._ignore_unknown = ignore_unknown
        self._whole = [field for field, t, _ in fields if t is Whole]
        self.compiled = not any(_UNCOMPILED & set(field) for field in self._fields)
        if not self.compiled:
            return
        self._struct = _struct(name, fields, ignore_unknown=ignore_unknown)
        self._many = list[self._struct]  # type: ignore[name-defined]
        present = [
            (field, _present(self._columns[field], t) if field in self._columns else t, needed)
            for field, t, needed in fields
        ]
        self._many_present = list[_struct(name, present, ignore_unknown=ignore_unknown)]  # type: ignore[misc]
        # Numbers that are markers or NaN are refused by their type, and most texts by :func:`_present`; these need a look.
        self._all_suspects = [(each.name, found) for each in columns if (found := suspects(each))]
        self._suspects = [(name, found) for name, found in self._all_suspects if _present(self._columns[name], Text) is Text]

    @property
    def types(self) -> tuple[Any, Any]:
        """The compiled types of one record and of many, for decoders; their fields are ``f0``, ``f1``, ... as declared.

        They exist only where ``compiled`` is true.
        """
        return self._struct, self._many

    @property
    def names(self) -> tuple[str, ...]:
        """The declared fields, in the order of the compiled type's."""
        return tuple(self._fields)

    def __call__(self, value: object) -> list[Record]:
        """Return the records with every declared field present (None where missing), numbers as floats and integers as such.

        Each value becomes what it means by its column (:meth:`Column.read`), so one that stands for a missing one is None.

        Raises:
            InvalidRequestError: ``value`` is not a list.
            InvalidRecordError: A record is malformed; names record and field of the first 20 faults.
        """
        if not isinstance(value, list):
            raise InvalidRequestError(f"A list of records is expected, not {_type_name(value)}.")
        records = None
        if self.compiled:
            # Each attempt accepts more and costs more; good records take the first one only.
            records = self._well_formed(value, self._many_present) or self._well_formed(value, self._many)
            if records is None:
                records = self._well_formed([self._as_read(record) for record in value], self._many)
        if records is None:
            if faults := self.faults(value):
                raise InvalidRecordError(faults_message(faults), faults)
            records = [self._converted(record) for record in value]
        for field in self._whole:
            for record in records:
                if record[field] is not None:
                    record[field] = int(record[field])
        return records

    def _well_formed(self, value: list[Any], kind: Any) -> list[Record] | None:
        """Return records of a compiled type whose values are all what they mean; None where they are not that."""
        try:
            records: list[Record] = msgspec.to_builtins(msgspec.convert(value, kind))
        except msgspec.ValidationError:
            return None
        looked_at = self._suspects if kind is self._many_present else self._all_suspects
        for name, found in looked_at:
            if not found.isdisjoint([record[name] for record in records]):
                return None
        return records

    def _as_read(self, record: Any) -> Any:
        return as_read(record, self._columns) if isinstance(record, dict) else record

    def _converted(self, record: Record) -> Record:
        """Return a record without faults."""
        known = as_read(record, self._columns)
        return {name: msgspec.convert(known.get(name), type_) for name, (type_, _) in self._fields.items()}

    def faults(self, value: list[Any], also: MoreFaults | None = None) -> list[RecordFault]:
        """Return the first 20 faults; a record may have several.

        Args:
            value: The records.
            also: Finds further faults in the well-formed part of a record, given with its position.
        """
        found: list[RecordFault] = []
        for position, record in enumerate(value):
            found += self._faults_of(record, position, also)
            if len(found) >= MAX_FAULTS:
                break
        return found[:MAX_FAULTS]

    def _faults_of(self, record: Any, position: int, also: MoreFaults | None) -> list[RecordFault]:
        if not isinstance(record, dict):
            return [_fault(record, position, None, f"must be a mapping, not {_type_name(record)}")]
        good, found = {}, []
        for field, (type_, needed) in self._fields.items():
            if field not in record:
                if needed:
                    found.append(_fault(record, position, field, "is missing"))
                continue
            given = record[field]
            column = self._columns.get(field)
            value = given if column is None else column.read(given)
            if value is None and needed and given is not None:
                found.append(_fault(record, position, field, f"is missing: {shown(given)} stands for a missing value"))
                continue
            try:
                good[field] = msgspec.convert(value, type_)
            except msgspec.ValidationError as error:
                problem = _explain(str(error), value)
                if column is not None and (why := column.limit_problem(value)):
                    problem += f", which {why}"
                elif column and not isinstance(value, str) and (text := str(value).removesuffix(".0")) in column.categories:
                    problem += f'; write "{text}"'
                found.append(_fault(record, position, field, problem))
        if not self._ignore_unknown:
            unknown = [str(field)[:100] for field in record if field not in self._fields]
            found += [_fault(record, position, field, UNDECLARED) for field in unknown[:MAX_FAULTS]]
        if also is not None:
            named = {fault["field"] for fault in found}
            found += [fault for fault in also(good, position) if fault["field"] not in named]
        return found


def raw_check(dataset: Dataset, *, ignore_unknown: bool = False, also: Sequence[Column] = ()) -> RecordCheck:
    """Return the check of raw records; the key may be missing, see :func:`with_ids`.

    Args:
        dataset: Declares the columns.
        ignore_unknown: Whether undeclared fields are ignored; otherwise they are faults.
        also: Further columns that a record may have.
    """
    fields: list[tuple[str, Any, bool]] = [(ID, _Id, False)]
    for column in dataset.columns:
        fields.append((column.name, column_type(column).python, not column.optional))
    fields += [(column.name, column_type(column).python, False) for column in also]
    return RecordCheck("raw record", fields, ignore_unknown=ignore_unknown, columns=(*dataset.columns, *also))


def processed_check(dataset: Dataset) -> RecordCheck:
    """Return the check of processed records; each needs its key and all features."""
    fields: list[tuple[str, Any, bool]] = [(ID, _Id, True), (dataset.target, Finite, False)]
    fields += [(name, Finite, True) for name in dataset.feature_names]
    return RecordCheck("processed record", fields)


def with_ids(records: list[Record]) -> list[Record]:
    """Give a key to every record that has none, in place."""
    for record in records:
        if record.get(ID) is None:
            record[ID] = new_key()
    return records


def _struct(name: str, fields: list[tuple[str, Any, bool]], *, ignore_unknown: bool) -> type[msgspec.Struct]:
    return msgspec.defstruct(
        name,
        [(f"f{i}", t) if needed else (f"f{i}", t | None, None) for i, (_, t, needed) in enumerate(fields)],
        rename={f"f{i}": field for i, (field, _, _) in enumerate(fields)},
        forbid_unknown_fields=not ignore_unknown,
        kw_only=True,
        gc=False,
    )


def _present(column: Column, kind: Any) -> Any:
    """Return a narrower type that no marker of the column fits, though every good value does; the type itself where there is none.

    ``msgspec`` tests it while it converts, at next to no cost: a test of every text costs a third of the conversion.
    """
    if column.type == "category":
        return Literal[column.categories]
    if column.type == "datetime":
        longest = max(map(len, column.markers))
        shortest = len(re.sub(r"%.", lambda code: "0000" if code[0] == "%Y" else "0", column.format))
        if shortest > longest:
            return Annotated[str, msgspec.Meta(min_length=longest + 1, max_length=MAX_TEXT)]
    return kind


def as_read(record: Record, columns: Mapping[str, Column]) -> Record:
    """Return a record with every value as it is meant (:meth:`Column.read`): None for what stands for a missing one, for example.

    Args:
        record: From anywhere.
        columns: The declared columns by name.
    """
    return {
        field: value if (column := columns.get(field)) is None else column.read(value) for field, value in record.items()
    }


def suspects(column: Column) -> frozenset[Any]:
    """Return values of the column's own type that are not meant as they are written: missing ones, and other spellings.

    Blanks around a marker are those that people write.
    """
    if column.is_numeric:
        return frozenset(column.missing_values)
    if column.type in LISTS:
        return frozenset()
    written = {f"{before}{marker}{after}" for marker in column.markers for before in ("", " ") for after in ("", " ")}
    return frozenset(written.difference(column.categories) | column.spelled.keys())


def _fault(record: Any, position: int, field: str | None, problem: str) -> RecordFault:
    key = record.get(ID) if isinstance(record, dict) else None
    return {"record": position, "id": key, "field": field, "problem": problem}


def _explain(message: str, value: Any) -> str:
    """Turn a message of msgspec about one value into our message, with the value if it is short."""
    problem, _, path = message.partition(" - at `$")
    place = path.removeprefix("[").partition("]")[0]
    if isinstance(value, list) and place.isdecimal():
        return f"entry {place} {_problem(problem, value[int(place)])}"
    return _problem(problem, value)


def _problem(problem: str, value: Any) -> str:
    if "multiple of 1" in problem or str(LARGEST_INTEGER) in problem:
        return f"must be a whole number up to {LARGEST_INTEGER}, not {shown(value)}"
    if "out of range" in problem or ("`float" in problem and ("<=" in problem or ">=" in problem)):
        return f"must be a finite number, not {shown(value)}"
    if "length" in problem:
        return _too_long(problem, value)
    if problem.startswith("Expected `") and ", got `" in problem:
        expected, got = problem.split("`")[1], problem.split("`")[3]
        wanted = " or ".join(_TYPE_NAMES.get(part, part) for part in expected.split(" | "))
        return f"must be {wanted}, " + ("and is missing" if got == "null" else f"not {_given(got, value)}")
    return problem


def _given(got: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    words = {"str": "the text", "int": "the number", "float": "the number", "array": "a list", "object": "a mapping"}
    return words.get(got, got) + (f" {shown(value)}" if isinstance(value, str | int | float) else "")


def _too_long(problem: str, value: Any) -> str:
    if isinstance(value, list):
        return f"must have at most {MAX_ENTRIES} entries, not {len(value)}"
    if f"<= {MAX_TEXT}" in problem:
        return (
            f"must have at most {MAX_TEXT} characters, not {len(value)}; keep longer texts elsewhere and save where they are"
        )
    return f"must have 1 to {MAX_KEY} characters"


def shown(value: Any) -> str:
    """Return a value for a message: shortened when it is long, only its type when it is a list or a mapping."""
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "...")
    if isinstance(value, int) and value.bit_length() >= 200:
        # Python refuses to make a text of an integer with more than 4,300 digits.
        digits = str(value) if value.bit_length() < 14_000 else ""
        return f"{digits[:20]}... ({len(digits)} digits)" if digits else "an integer of more than 4,000 digits"
    if isinstance(value, bool | int | float):
        return str(value)
    return _type_name(value)


def faults_message(faults: list[RecordFault]) -> str:
    """Return one sentence for a list of faults: the first in full, and the number of the others."""
    first = faults[0]
    where = f"Record {first['record']}" + (f" (id {first['id']})" if first["id"] is not None else "")
    field = f", field '{first['field']}'" if first["field"] is not None else ""
    more = f" {len(faults) - 1} more fault(s) in this batch." if len(faults) > 1 else ""
    return f"{where}{field}: {first['problem']}.{more}"


def _type_name(value: object) -> str:
    return {"dict": "a mapping", "str": "a text", "NoneType": "nothing"}.get(type(value).__name__, type(value).__name__)
