"""Requests for predictions that failed, counted by error code until somebody takes the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from complex_system.errors import ComplexSystemError, InternalError


class FailureCounts:
    """Counts failures of one serving process."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, code: str) -> None:
        """Takes a failed request."""
        self._counts[code] += 1

    def take(self) -> dict[str, int]:
        """The counts by code since the last call."""
        counts, self._counts = dict(self._counts), Counter()
        return counts

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts an exception that passes, by its code; one that is none of ours is an internal error."""
        try:
            yield
        except ComplexSystemError as error:
            self.count(error.code)
            raise
        except Exception:
            self.count(InternalError.code)
            raise
