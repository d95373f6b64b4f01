"""Labels that are probably wrong, as training and comparison name them."""

from __future__ import annotations

from complex_system.protocol.base import Message


class SuspectTarget(Message, frozen=True, kw_only=True):
    """A label that is probably wrong.

    Attributes:
        id: Key of the record.
        value: The label.
        why: What is strange about it.
    """

    id: str
    value: float
    why: str


class SuspectTargets(Message, frozen=True, kw_only=True):
    """Labels that are probably wrong. They are used all the same.

    Attributes:
        target: The column.
        records: Labelled records that were looked at.
        count: How many look wrong.
        named: The first of them, the worst first.
    """

    target: str = ""
    records: int = 0
    count: int = 0
    named: tuple[SuspectTarget, ...] = ()


NO_SUSPECTS = SuspectTargets()
