"""When a training round is due: after enough new data, or on an alert. Bookkeeping only: no clock, no broker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from complex_system.protocol.database import RecordCounts
from complex_system.protocol.operations import Alert
from complex_system.protocol.training import Moved

SETTLED_SHARE = 0.01
"""Data are settled when at most this share of the raw records is neither processed nor rejected ..."""
SETTLED_GROWTH = 0.02
"""... and they grew by less than this share since the last look."""
MAX_WAITING = 1000
"""Most records that may wait to be processed when a round begins."""
SETTLE_PATIENCE = 60.0
"""Seconds after which a due round starts although the data have not settled."""
FIRST_FAILURE_PAUSE = 30.0
"""Seconds from a round without a model to the next one; doubled with every further one ..."""
MAX_FAILURE_PAUSE = 1800.0
"""... up to this."""
MAX_ALERT_PAUSE = 86_400.0
"""Seconds to which the pause between rounds on alerts grows while they bring no better model."""


class GrowthTrigger:
    """Tells when there is enough new data for a training round: labelled records that are new, and corrected ones."""

    def __init__(
        self, min_labelled: int, growth: float, last_labelled: int | None = None, last_corrected: int | None = None
    ) -> None:
        """Make a trigger.

        Args:
            min_labelled: Labelled records that a round needs.
            growth: Share by which the labelled records must have changed since the last round.
            last_labelled: Labelled records at the last round; None when there was none.
            last_corrected: Corrections of labelled records at the last round; None where nobody counted them: those of the first look.
        """
        self.min_labelled = min_labelled
        self._growth = growth
        self.last_labelled = last_labelled
        self._last_corrected = last_corrected
        self._raw_before: int | None = None
        self._enough_since: float | None = None
        self._failures = 0
        self._failed = (0, 0)
        self._not_before = 0.0

    def is_due(self, counts: RecordCounts, now: float) -> bool:
        """Return whether a round is due: enough new labelled records, which have settled or had 60 s to do so.

        After a round without a model, a pause has to be over, too, unless the data have changed as much as for a new round.

        Args:
            counts: The present numbers of records; each call is compared with the one before.
            now: Monotonic time in seconds.
        """
        raw_before, self._raw_before = self._raw_before, counts.raw
        if self._last_corrected is None:
            self._last_corrected = counts.corrected
        if counts.labelled < self.min_labelled or not self._has_changed(counts, self.last_labelled, self._last_corrected):
            self._enough_since = None
            return False
        if self._failures and self._has_changed(counts, *self._failed):
            self._failures = 0
        if self._failures and now < self._not_before:
            return False
        if self._enough_since is None:
            self._enough_since = now
        if now - self._enough_since >= SETTLE_PATIENCE:
            return True
        raw = counts.raw
        # Of fewer raw records than results it is not known how many wait: old ones were deleted. Before a round they are looked for.
        waiting = max(0, raw - counts.processed - counts.rejected)
        return raw_before is not None and waiting <= SETTLED_SHARE * raw and raw - raw_before <= SETTLED_GROWTH * raw_before

    def most_waiting(self, counts: RecordCounts) -> int:
        """Return how many records may still wait to be processed when a due round begins.

        None where it is due for its corrections, which count before they are processed.
        """
        grown = self.last_labelled is None or abs(counts.labelled - self.last_labelled) >= self._growth * self.last_labelled
        return min(MAX_WAITING, max(1, int(SETTLED_SHARE * counts.raw))) if grown else 0

    def succeeded(self, labelled: int, corrected: int) -> None:
        """Record that a round with this many labelled records, and corrections of them until then, was carried out."""
        self.last_labelled, self._last_corrected = labelled, corrected
        self._enough_since = None
        self._failures = 0

    def failed(self, labelled: int, corrected: int, now: float) -> float:
        """Record that such a round ended without a model; return the seconds until the next one."""
        pause: float = min(FIRST_FAILURE_PAUSE * 2 ** min(self._failures, 10), MAX_FAILURE_PAUSE)
        self._failures += 1
        self._failed, self._not_before = (labelled, corrected), now + pause
        self._enough_since = None
        return pause

    def _has_changed(self, counts: RecordCounts, labelled: int | None, corrected: int) -> bool:
        # Fewer than before happens, too: the database was emptied and filled anew.
        return (
            labelled is None
            or abs(counts.labelled - labelled) + abs(counts.corrected - corrected) >= self._growth * labelled
        )


@dataclass(frozen=True)
class AlertCause:
    """The alerts that a round is for.

    Attributes:
        alerts: Their keys, oldest first.
        since: Since when it is different, epoch seconds. Where the error has moved, older records follow another law; where only the
            inputs have, they still tell what the law is.
        text: Their messages.
        moved: The error, where one of the alerts says so or does not say what has moved; else the inputs.
    """

    alerts: tuple[str, ...]
    since: float
    text: str
    moved: Moved = "error"

    @classmethod
    def of(cls, alerts: Iterable[Alert]) -> AlertCause:
        """Return the cause that some open alerts are, at least one."""
        known = sorted(alerts, key=lambda alert: alert.began)
        errors = [alert for alert in known if alert.moved != "input"]
        # Of several changes of the error the last one counts, so that all records are of one law; of the inputs the first one.
        since = max(map(_changed_at, errors)) if errors else min(map(_changed_at, known))
        text = " ".join(alert.sentence for alert in known)
        return cls(tuple(alert.key for alert in known), since, text, "error" if errors else "input")


def _changed_at(alert: Alert) -> float:
    return alert.since if alert.error_changed is None else alert.error_changed


class AlertTrigger:
    """Tells when open alerts ask for a training round.

    As long as such an alert is open, a round is due again after a pause. The pause doubles with every round that left the
    champion in place, because more of the same would only cost time.
    """

    def __init__(self, pause: float) -> None:
        """Make a trigger without alerts.

        Args:
            pause: Seconds from the end of a round to the next one.
        """
        self._pause = pause
        self._without_success = 0
        self._not_before = float("-inf")
        self._open: dict[str, Alert] = {}

    def raised(self, alert: Alert) -> None:
        """Record an alert that begins; one that asks for no training is left out."""
        if alert.retrain:
            self._open[alert.key] = alert

    def ended(self, alert: Alert) -> None:
        """Record that an alert is over."""
        self._open.pop(alert.key, None)

    def replace(self, alerts: Iterable[Alert]) -> None:
        """Take these as all open alerts, whatever was heard before."""
        self._open.clear()
        for alert in alerts:
            self.raised(alert)

    def due(self, now: float) -> AlertCause | None:
        """Return why a round is due at a monotonic time in seconds, or None."""
        if not self._open or now < self._not_before:
            return None
        return AlertCause.of(self._open.values())

    def finished(self, now: float, *, improved: bool) -> float:
        """Record the end of a round on alerts; return the seconds until the next one may begin."""
        self._without_success = 0 if improved else self._without_success + 1
        pause: float = min(self._pause * 2 ** min(self._without_success, 16), max(MAX_ALERT_PAUSE, self._pause))
        self._not_before = now + pause
        return pause
