"""Which column of a table keeps which declared column, and how a table follows a declaration that changes.

Each of our columns says in its comment what it was declared as, so the order of a declaration does not matter, and a name that comes
back finds its column again. Columns are added, never dropped, renamed or made smaller.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from complex_system.domain.dataset import ID
from complex_system.storage.arrow import PIPELINE

TEXT = "MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NULL"
_KINDS = {"number": "DOUBLE NULL", "integer": "BIGINT NULL", "boolean": "BOOLEAN NULL"}  # the others are texts, lists JSON
_STORED = {"number": "double", "integer": "bigint", "boolean": "tinyint"}
_BY_STORED = {stored: declared for declared, stored in _STORED.items()}
_LONGEST_IDENTIFIER = 64
_LONGEST_IN_COMMENT = 900  # of 1,024 characters
_COMMENT = re.compile(r"declared as (?P<written>.*) = (?P<type>[a-z ]+)", re.DOTALL)


@dataclass(frozen=True)
class Kept:
    """A column of a table, as ``information_schema`` has it."""

    name: str
    stored: str
    comment: str = ""

    @property
    def written(self) -> str | None:
        """What :func:`written` made of the declared name; None for a column without a comment of ours."""
        found = _COMMENT.fullmatch(self.comment)
        return found["written"] if found else None

    @property
    def declared(self) -> str | None:
        """The declared type; of a column without a comment of ours the one that it must have had, None where there are several."""
        found = _COMMENT.fullmatch(self.comment)
        return found["type"] if found else _BY_STORED.get(self.stored)


@dataclass(frozen=True)
class Plan:
    """What keeps the declared columns.

    Attributes:
        columns: Column of the table by declared name, the key included.
        types: Type under which values were kept so far, by declared name; without those of unknown type and new ones.
        changes: What ``ALTER TABLE`` has to do, in its words; empty where all is there.
    """

    columns: dict[str, str]
    types: dict[str, str]
    changes: tuple[str, ...]


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def plan(declared: Mapping[str, str], kept: Sequence[Kept]) -> Plan:
    """Finds or makes a column for each declared one.

    A column is found by its comment. One without, in a table that an earlier release made, is found by its exact name or by the name
    that a hash gave it, and gets its comment now.

    Args:
        declared: Types by name, in order, without the key.
        kept: The table's columns.
    """
    by_comment = {each.written: each for each in kept if each.written is not None}
    by_name = {each.name: each for each in kept if each.written is None and each.name not in (ID, PIPELINE)}
    taken = {_folded(name) for name in (ID, PIPELINE, *(each.name for each in kept))}
    columns, types, changes = {ID: ID}, {}, []
    for name, kind in declared.items():
        candidates = (by_comment.get(written(name)), by_name.get(name), by_name.get(_hashed(name)))
        found = next((each for each in candidates if each is not None and each.name not in columns.values()), None)
        if found is None:
            columns[name] = column = name if _is_plain(name) and _folded(name) not in taken else _hashed(name)
            taken.add(_folded(column))
            changes.append(f"ADD COLUMN IF NOT EXISTS {quoted(column)} {_definition(name, kind)}")
            continue
        columns[name] = found.name
        if found.declared is not None:
            types[name] = found.declared
        ours = found.stored in (_stored(kind), _stored(found.declared or kind))
        if ours and found.comment != _comment(name, kind):
            changes.append(f"MODIFY COLUMN {quoted(found.name)} {_definition(name, kind)}")
    return Plan(columns, types, tuple(changes))


def written(name: str) -> str:
    """A declared name as a comment has it: what could mean something there stands as ``=`` and its bytes in hexadecimal."""
    made = "".join(each if _is_plain_character(each) and each != "=" else _escaped(each) for each in name)
    return made if len(made) <= _LONGEST_IN_COMMENT else f"=sha256 {hashlib.sha256(name.encode()).hexdigest()}"


def _definition(name: str, kind: str) -> str:
    return f"{_KINDS.get(kind, TEXT)} COMMENT '{_comment(name, kind)}'"


def _comment(name: str, kind: str) -> str:
    return f"declared as {written(name)} = {kind}"


def _stored(kind: str) -> str:
    return _STORED.get(kind, "mediumtext")


def _is_plain(name: str) -> bool:
    """Whether MariaDB takes a name as it is.

    It refuses long names, trailing spaces and characters beyond the basic plane, and the connector takes some characters for
    placeholders.
    """
    return len(name) <= _LONGEST_IDENTIFIER and name == name.strip() and all(map(_is_plain_character, name))


def _is_plain_character(character: str) -> bool:
    return character not in "?%:\\\"'`#" and character <= "\uffff" and character.isprintable()


def _hashed(name: str) -> str:
    return f"column_{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _folded(name: str) -> str:
    """What names have in common that some version of MariaDB takes for one: upper and lower case, letters with accents and without."""
    parts = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(character for character in parts if not unicodedata.combining(character)).casefold()
    return bare.replace("ss", "s").replace("ı", "i")


def _escaped(character: str) -> str:
    return "".join(f"={byte:02X}" for byte in character.encode())
