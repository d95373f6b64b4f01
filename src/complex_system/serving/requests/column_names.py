"""Names of columns in requests: the key's own name, columns that nobody declared, and what to say of a field that is refused."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Container, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

from complex_system.domain.dataset import ID, Column, Dataset
from complex_system.domain.records import UNDECLARED, Record
from complex_system.errors import RecordFault

UnknownColumns = Literal["mlflow", "ignore", "error"]
"""Where undeclared columns are left out: where MLflow does, which is at ``/invocations``; everywhere; nowhere."""
FEATURES, FEATURES_HEADER = "features", "X-Input"
"""The tensor of processed features, and the header that announces them at ``/invocations``, with that name as its value."""

_SETTING = "COMPLEX_SYSTEM_SERVING_UNKNOWN_COLUMNS"
_ALIKE = 0.85
"""Similarity from which an undeclared name is probably a misspelled one; ``rohwert1`` and ``rohwert_1`` have 0.94."""
_COMPARED = 500
"""Undeclared names of one request that are compared with the declared ones; requests with more are refused."""
_LONGEST_COMPARED = 200
_DECIMAL_COMMA = re.compile(r"[+-]?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+),[0-9]+")
_EITHER = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")  # 1,234: thousands or decimals
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class ColumnNames:
    """What columns of a request may be called.

    Attributes:
        key: The data set's own name of the key, which records may use in place of ``_id``; empty where there is none.
        features: Names of the features.
        made: Those that no raw column has.
    """

    def __init__(self, dataset: Dataset, declared: Iterable[Column], unknown: UnknownColumns, key: str = "") -> None:
        """Make the names.

        Args:
            dataset: What the model was trained for.
            declared: All columns that requests may have.
            unknown: Where undeclared columns are left out; elsewhere they are faults.
            key: The data set's own name of the key.
        """
        self._unknown = unknown
        self._known = {ID, *(column.name for column in declared)}
        self.key = key if key not in self._known else ""
        self.features = frozenset(dataset.feature_names)
        self.made = self.features - self._known
        targets = set(dataset.targets)
        self._read = {_plain(name): name for name in self._known - targets - {ID}}
        self._alike = lru_cache(_COMPARED)(self._find_alike)

    def is_declared(self, name: str) -> bool:
        """Return whether requests may have a column of that name."""
        return name in self._known

    def readable(self, records: list[Any], *, scoring: bool) -> list[Any]:
        """Return records with the key as ``_id`` and without the fields that are left out.

        Args:
            records: As they were sent.
            scoring: Whether they came to ``/invocations``.
        """
        chosen: dict[tuple[str, ...], dict[str, str]] = {}
        seen: set[str] = set()
        made = []
        for record in records:
            if not isinstance(record, dict):
                made.append(record)
                continue
            fields = tuple(record)
            if fields not in chosen:
                chosen[fields] = self.chosen(record, scoring=scoring, seen=seen)
            made.append({name: _value(record[field], field, name) for field, name in chosen[fields].items()})
        return made

    def readable_columns(self, columns: Mapping[str, Any], *, scoring: bool) -> Mapping[str, Any]:
        """Return columns by name as :meth:`readable` returns records."""
        if columns.keys() <= self._known:
            return columns
        return {
            name: [_value(value, field, name) for value in columns[field]] if field != name else columns[field]
            for field, name in self.chosen(columns, scoring=scoring, seen=set()).items()
        }

    def chosen(self, given: Iterable[str], *, scoring: bool, seen: set[str]) -> dict[str, str]:
        """Return the fields that are read, each with the name that it is read as.

        Args:
            given: All fields of a record.
            scoring: Whether it came to ``/invocations``.
            seen: Undeclared names of the request so far; they are added.
        """
        fields = set(given)
        chosen = {}
        for field in given:
            if field in self._known:
                chosen[field] = field
            elif field == self.key and ID not in fields:
                chosen[field] = ID
            elif field == self.key or not self._left_out(field, fields, scoring=scoring, seen=seen):
                chosen[field] = field
        return chosen

    def _left_out(self, field: str, fields: Container[str], *, scoring: bool, seen: set[str]) -> bool:
        if self._unknown == "ignore":
            return True
        if self._unknown == "error" or not scoring or field in self.made:
            return False
        seen.add(field)
        # A misspelled column must not become a missing value without a word.
        return len(seen) <= _COMPARED and not self.misspelled(field, fields)

    def misspelled(self, field: str, fields: Container[str]) -> str:
        """Return the declared column that an undeclared field of a record probably is and that the record lacks; or nothing."""
        alike = self._alike(field) if len(field) <= _LONGEST_COMPARED else ()
        return next((name for name in alike if name not in fields), "")

    def _find_alike(self, field: str) -> list[str]:
        plain = _plain(field)
        return [self._read[each] for each in difflib.get_close_matches(plain, self._read, 3, _ALIKE)] if plain else []

    def advised(self, faults: list[RecordFault], records: list[Any]) -> list[RecordFault]:
        """Return faults with what to do about each, where that is known."""
        return [
            {**fault, "problem": self._advised(fault["problem"], fault["field"], records[fault["record"]])}
            for fault in faults
        ]

    def _advised(self, problem: str, field: str | None, record: Any) -> str:
        if field is None or not isinstance(record, dict):
            return problem
        value = record.get(field)
        if problem == UNDECLARED:
            return self._undeclared(field, record)
        if problem.startswith("must be a number") and isinstance(value, str) and (written := written_number(value)):
            return f"{problem}; write {written}"
        return problem

    def _undeclared(self, field: str, record: Record) -> str:
        if field == self.key:
            return f"is the key, as '{ID}' is: send one of them"
        if field in self.made:
            return (
                "is a processed feature, and raw columns are expected; /invocations takes features alone, with the header "
                f"'{FEATURES_HEADER}: {FEATURES}'"
            )
        if name := self.misspelled(field, record):
            return f"{UNDECLARED}; is it '{name}', which the record lacks? If not, send '{name}' as null"
        return f"{UNDECLARED}; leave it out, or set {_SETTING}=ignore for the serving service"


def written_number(text: str) -> str:
    """Return the number in a text as JSON writes it; empty if the text is not a number.

    If its comma may separate decimals or thousands, both readings are returned.
    """
    text = text.strip()
    plain = text.replace(".", "").replace(",", ".").lstrip("+")
    if _NUMBER.fullmatch(text):
        return f"{text.lstrip('+')} without quotation marks"
    if _EITHER.fullmatch(text):
        return f"{plain} or {text.replace(',', '')}, whichever is meant"
    return plain if _DECIMAL_COMMA.fullmatch(text) else ""


def _value(value: Any, field: str, name: str) -> Any:
    # A key in numbers is a text, as in files.
    return str(value) if field != name and type(value) is int and value.bit_length() < 200 else value


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", name).casefold()))
