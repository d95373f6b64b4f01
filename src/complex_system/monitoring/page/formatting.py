"""Figures, times and names as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from complex_system.domain.dataset import Dataset

NONE = "–"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


@dataclass(frozen=True)
class Clock:
    """Times in the zone of whoever looks."""

    zone: tzinfo = UTC

    @classmethod
    def of(cls, client: Mapping[str, Any] | None) -> Clock:
        """The zone that a browser names; where this machine does not know it, its present offset from UTC.

        Args:
            client: ``{"zone": "Europe/Berlin", "offset": minutes that UTC is ahead of it}``; UTC without it.
        """
        try:
            return cls(ZoneInfo(str((client or {})["zone"])))
        except (KeyError, ValueError, OSError):
            pass
        try:
            return cls(timezone(-timedelta(minutes=float((client or {})["offset"]))))
        except (KeyError, ValueError, TypeError, OverflowError):
            return cls()

    def local(self, at: float) -> datetime:
        """The time in the zone."""
        return datetime.fromtimestamp(at, self.zone)

    def axis(self, at: float) -> str:
        """For a plot's time axis, which knows no zones."""
        return self.local(at).strftime("%Y-%m-%d %H:%M:%S")

    def moment(self, at: float) -> str:
        """``23 Nov 2026, 14:05``."""
        return self.local(at).strftime("%d %b %Y, %H:%M").lstrip("0")

    def short(self, at: float) -> str:
        """``23 Nov, 14:05``."""
        return self.local(at).strftime("%d %b, %H:%M").lstrip("0")

    @property
    def name(self) -> str:
        """The zone for an axis or a footer."""
        return self.local(datetime.now(UTC).timestamp()).tzname() or str(self.zone)


def number(value: float | None, digits: int = 2) -> str:
    """With so many digits after the point, thousands separated; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.{digits}f}"


def error(value: float | None) -> str:
    """An error in the target's unit, whatever its size: two decimals, more where it is small."""
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    if size >= 1 or size == 0:
        return number(value)
    return f"{value:.3f}" if size >= 0.1 else f"{value:.3g}"


def interval(row: Mapping[str, Any]) -> str:
    """``12.10 to 14.30``, the 95 % interval of a result's RMSE; a dash where there is none."""
    low, high = row.get("rmse_low"), row.get("rmse_high")
    return NONE if low is None or high is None else f"{error(float(low))} to {error(float(high))}"


def count(value: float | None) -> str:
    """A count: exact up to a hundred thousand, then with three digits."""
    if value is None:
        return NONE
    if value < 100_000:
        return f"{value:,.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if value < 999.5 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def rate(value: float | None) -> str:
    """Things a second."""
    if value is None:
        return NONE
    if 0 < value < 0.1:
        return f"{60 * value:.2g}/min"
    return f"{value:.3g}/s" if value < 1000 else f"{count(value)}/s"


def share(value: float | None) -> str:
    """A share in percent."""
    if value is None:
        return NONE
    percent = 100 * value
    if percent <= 0 or percent >= 99.95:
        return f"{percent:.0f}\u00a0%"
    return f"{percent:.1f}\u00a0%" if percent >= 0.1 else "<\u00a00.1\u00a0%"


def lasting(seconds: float) -> str:
    """A duration in its two greatest units."""
    seconds = max(0, round(seconds))
    for size, unit, small, part in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // small
            return f"{seconds // size} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{seconds} s"


def age(seconds: float) -> str:
    """How old a heartbeat is: whole seconds are enough."""
    return f"{max(0, math.floor(seconds))} s" if seconds < 100 else lasting(seconds)


def megabytes(value: float | None) -> str:
    """Memory."""
    if value is None:
        return NONE
    return f"{value / 1000:.1f} GB" if value >= 10_000 else f"{value:,.0f} MB"


def unit_of(dataset: Dataset) -> str:
    """The target's unit for an axis; where none is declared, that it is in its own."""
    return dataset.column(dataset.target).unit or "target's unit"


def group_name(group: str) -> str:
    """``material_id=00000000`` as ``00000000``."""
    return group.partition("=")[2] or group or "all"


def group_column(groups: list[str]) -> str:
    """The column that groups are made by."""
    return next((group.partition("=")[0] for group in groups if "=" in group), "group")


def link(url: Any) -> str:
    """An address that may stand in a link: http or https, nothing that a browser would run; else empty."""
    text = str(url or "").strip()
    return text if text.lower().startswith(("http://", "https://")) else ""
