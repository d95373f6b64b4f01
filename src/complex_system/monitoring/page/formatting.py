"""Numbers, times and names as a person reads them, and who the reader is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Literal
from zoneinfo import ZoneInfo

NONE = "–"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

Level = Literal["good", "warn", "bad", "none"]
"""How things are; ``none`` where it is not known. Style sheets have a class for each."""
_STATE_LEVELS: dict[str, Level] = {
    "ready": "good",
    "working": "good",
    "starting": "warn",
    "waiting": "warn",
    "": "none",
    "stopped": "none",
}


def level_of(state: str) -> Level:
    """Return the level of a service's state."""
    return _STATE_LEVELS.get(state, "bad")


@dataclass(frozen=True)
class Clock:
    """Times in the reader's time zone."""

    zone: tzinfo = UTC

    @classmethod
    def of(cls, client: Any) -> Clock:
        """Return a clock in the zone that a browser names; if this machine does not know the zone, by its offset from UTC.

        Args:
            client: ``{"zone": "Europe/Berlin", "offset": minutes that UTC is ahead of it}``. Anything else gives UTC.
        """
        try:
            return cls(ZoneInfo(str(client["zone"])))
        except (KeyError, ValueError, OSError, TypeError):
            pass
        try:
            return cls(timezone(-timedelta(minutes=float(client["offset"]))))
        except (KeyError, ValueError, TypeError, OverflowError):
            return cls()

    def local(self, at: float) -> datetime:
        """Return a time in the zone."""
        return datetime.fromtimestamp(at, self.zone)

    def axis(self, at: float) -> str:
        """Format a time for a plot's axis, which has no time zones."""
        return self.local(at).strftime("%Y-%m-%d %H:%M:%S")

    def moment(self, at: float) -> str:
        """Format a time as ``23 Nov 2026, 14:05``."""
        return self.local(at).strftime("%d %b %Y, %H:%M").lstrip("0")

    def short(self, at: float) -> str:
        """Format a time as ``23 Nov, 14:05``."""
        return self.local(at).strftime("%d %b, %H:%M").lstrip("0")

    @property
    def name(self) -> str:
        """Name of the zone."""
        return self.local(datetime.now(UTC).timestamp()).tzname() or str(self.zone)


@dataclass(frozen=True)
class Viewer:
    """The reader of a page.

    Attributes:
        theme: ``light`` or ``dark``.
        clock: The reader's time zone.
        choice: What the reader has chosen on the view.
    """

    theme: str = "light"
    clock: Clock = field(default_factory=Clock)
    choice: str = ""

    @classmethod
    def of(cls, client: Mapping[str, Any], choice: str = "") -> Viewer:
        """Read what a browser says of itself (``client`` in ``page.js``)."""
        return cls("dark" if client.get("theme") == "dark" else "light", Clock.of(client), choice)


def number(value: float | None, digits: int = 2) -> str:
    """Format a number with a fixed number of decimals and separated thousands."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.{digits}f}"


def error(value: float | None) -> str:
    """Format an error in the target's unit: two decimals, or three significant digits if it is small."""
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    if size >= 1 or size == 0:
        return number(value)
    return f"{value:.3f}" if size >= 0.1 else f"{value:.3g}"


def interval(low: float | None, high: float | None) -> str:
    """Format an interval of errors as ``12.10 to 14.30``; empty if it is not known."""
    return "" if low is None or high is None else f"{error(low)} to {error(high)}"


def count(value: float | None) -> str:
    """Format a count: exact below a hundred thousand, else with three digits."""
    if value is None:
        return NONE
    if value < 100_000:
        return f"{value:,.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if value < 999.5 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def rate(value: float | None) -> str:
    """Format a rate per second, or per minute if it is small."""
    if value is None:
        return NONE
    if 0 < value < 0.1:
        return f"{60 * value:.2g}/min"
    return f"{value:.3g}/s" if value < 1000 else f"{count(value)}/s"


def share(value: float | None) -> str:
    """Format a share in percent."""
    if value is None:
        return NONE
    percent = 100 * value
    if percent <= 0 or percent >= 99.95:
        return f"{percent:.0f}\u00a0%"
    return f"{percent:.1f}\u00a0%" if percent >= 0.1 else "<\u00a00.1\u00a0%"


def lasting(seconds: float) -> str:
    """Format a duration in its two largest units."""
    seconds = max(0, round(seconds))
    for size, unit, small, part in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // small
            return f"{seconds // size} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{seconds} s"


def age(seconds: float) -> str:
    """Format the age of a heartbeat in whole seconds."""
    return f"{max(0, math.floor(seconds))} s" if seconds < 100 else lasting(seconds)


def megabytes(value: float | None) -> str:
    """Format an amount of memory."""
    if value is None:
        return NONE
    return f"{value / 1000:.1f} GB" if value >= 10_000 else f"{value:,.0f} MB"


def group_name(group: str) -> str:
    """Return ``00000000`` for the group ``material_id=00000000``."""
    return group.partition("=")[2] or group or "all"


def group_column(groups: list[str]) -> str:
    """Return the column that groups are made by."""
    return next((group.partition("=")[0] for group in groups if "=" in group), "group")


def link(url: Any) -> str:
    """Return an address that is safe in a link, which is http or https; otherwise an empty text."""
    text = str(url or "").strip()
    return text if text.lower().startswith(("http://", "https://")) else ""
