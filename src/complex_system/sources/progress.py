"""How far a source is, and what became of records whose keys the database has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from complex_system.domain.columns import counts_text
from complex_system.protocol.database import Saved

_NAMED = 3
"""Keys of records with other values that are named."""


@dataclass
class Progress:
    """Counts of one reading; its text is what the source says of itself.

    Attributes:
        wanted: Records to send.
        sent: ``saved`` or ``published``.
        saved: Records that were acknowledged, known ones included.
        refused: Rows that are not records, or that the database refuses.
        repetition: Of the file, from 1.
        note: What else there is to say.
        outside: Values outside of their range that are taken all the same, by column.
    """

    wanted: int
    sent: str = "saved"
    saved: int = 0
    refused: int = 0
    repetition: int = 1
    note: str = ""
    outside: Counter[str] = field(default_factory=Counter)
    _known: int = 0
    _filled: int = 0
    _differing: int = 0
    _replaced: int = 0
    _keys: list[str] = field(default_factory=list)

    def add(self, reply: Saved) -> None:
        """Count what became of a batch."""
        self._known += reply.existing - reply.filled - reply.conflicts
        self._filled += reply.filled
        self._differing += reply.conflicts
        self._replaced += reply.replaced
        self._keys += reply.differing[: _NAMED - len(self._keys)]

    def __str__(self) -> str:
        """Return a phrase, such as ``403 of 403 records saved: 400 known, 2 filled, 1 differs and is not taken: B-0007``."""
        refused = f", {self.refused} refused" if self.refused else ""
        repetition = f", repetition {self.repetition}" if self.repetition > 1 else ""
        outside = f"; values outside of their range: {counts_text(self.outside)}" if self.outside else ""
        note = f"; {self.note}" if self.note else ""
        return f"{self.saved} of {self.wanted} records {self.sent}{refused}{repetition}{self._merged}{outside}{note}"

    @property
    def _merged(self) -> str:
        if not self._filled + self._differing:
            return ""
        new = self.saved - self._known - self._filled - self._differing
        counts = {"new": new, "known": self._known, "filled": self._filled}
        what = [f"{count} {name}" for name, count in counts.items() if count > 0]
        if self._differing:
            one = self._differing == 1
            verb, is_ = ("differs", "is") if one else ("differ", "are")
            if self._replaced == self._differing:
                taken = f"and {'replaces' if one else 'replace'} what was there"
            else:
                taken = f", {self._replaced} of them replaced" if self._replaced else f"and {is_} not taken"
            more = ", ..." if self._differing > len(self._keys) else ""
            what.append(f"{self._differing} {verb} {taken}: {', '.join(self._keys)}{more}".replace(" ,", ","))
        return f": {', '.join(what)}"
