"""Times as texts in a declared format: one pattern for Python and polars, and the calendar as whole numbers.

Libraries differ in what they accept as ``%d.%m.%Y``. Here a format becomes a regular expression of digits, and the parts follow
from the numbers by the proleptic Gregorian calendar, so a time means the same for one record and in a column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_CODES = {
    "%Y": ("year", "[0-9]{4}"),
    "%y": ("year", "[0-9]{2}"),
    "%m": ("month", "[0-9]{1,2}"),
    "%d": ("day", "[0-9]{1,2}"),
    "%H": ("hour", "[0-9]{1,2}"),
    "%M": ("minute", "[0-9]{1,2}"),
    "%S": ("second", "[0-9]{1,2}"),
    "%f": ("fraction", "[0-9]{1,9}"),
}
FIRST_OF_1900 = 69
"""Two-digit years from here on belong to the 20th century, smaller ones to the 21st, as in POSIX and Python."""
PARTS = ("year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year")
"""What a step can take out of a time; the weekday is 1 on Monday."""
LIMITS = {
    "year": (1.0, 9999.0),
    "month": (1.0, 12.0),
    "day": (1.0, 31.0),
    "hour": (0.0, 23.0),
    "minute": (0.0, 59.0),
    "second": (0.0, 59.0),
    "weekday": (1.0, 7.0),
    "day_of_year": (1.0, 366.0),
}
USUAL_FORMATS = tuple(
    date + time
    for date in ("%d.%m.%Y", "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d-%m-%Y", "%d.%m.%y")
    for time in (
        "", " %H:%M", " %H:%M:%S", ", %H:%M:%S", ", %H:%M", "T%H:%M:%S", "T%H:%M", " %H:%M:%S.%f",
        "T%H:%M:%S.%f", "T%H:%M:%SZ", "T%H:%M:%S.%fZ",
    )
)  # fmt: skip
"""Formats in which files usually have times, the likeliest first."""
DAYS_BEFORE = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
"""Days of a common year before each month."""


def pattern(declared: str) -> str:
    """Return the regular expression of a format, with named groups, for Python's and Rust's engine.

    Raises:
        ValueError: The format has other codes than %d, %m, %Y or %y, %H, %M, %S and %f, one twice, or no full date.
    """
    made, place, seen = "", 0, set()
    while place < len(declared):
        code = declared[place : place + 2]
        if declared[place] != "%":
            made += re.escape(declared[place])
            place += 1
            continue
        name, digits = _CODES.get(code, ("", ""))
        if not name or name in seen:
            raise ValueError(f"the format '{declared}' may have %d, %m, %Y or %y, %H, %M, %S and %f, each once")
        seen.add(name)
        made += f"(?P<{name}>{digits})"
        place += 2
    if not {"year", "month", "day"} <= seen:
        raise ValueError(f"the format '{declared}' needs %d, %m and %Y")
    return f"^{made}$"


class TimeFormat:
    """Reads texts of one declared format.

    Attributes:
        pattern: The regular expression.
        two_digits: Whether years have two digits.
        groups: Names of the parts that a text has.
    """

    def __init__(self, declared: str) -> None:
        """Compile the format.

        Raises:
            ValueError: It is not a format, see :func:`pattern`.
        """
        self.declared = declared
        self.pattern = pattern(declared)
        self.two_digits = "%y" in declared
        self.groups = tuple(re.compile(self.pattern).groupindex)
        self._match = re.compile(self.pattern.removesuffix("$")).fullmatch  # "$" accepts a line feed at the end

    def parts(self, text: str) -> dict[str, int] | None:
        """Return the parts of a time, its fraction in nanoseconds, or None where the text is not a time of this format."""
        match = self._match(text)
        if match is None:
            return None
        found = {"hour": 0, "minute": 0, "second": 0, **{name: int(digits) for name, digits in match.groupdict().items()}}
        if "fraction" in found:
            found["fraction"] = int(match["fraction"].ljust(9, "0"))
        if self.two_digits:
            found["year"] += 1900 if found["year"] >= FIRST_OF_1900 else 2000
        year, month, day = found["year"], found["month"], found["day"]
        if not (year >= 1 and 1 <= month <= 12 and found["hour"] < 24 and found["minute"] < 60 and found["second"] < 60):
            return None
        leap = int(year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
        longest = 30 + (month + month // 8) % 2 if month != 2 else 28 + leap
        if not 1 <= day <= longest:
            return None
        found["day_of_year"] = DAYS_BEFORE[month - 1] + day + (leap if month > 2 else 0)
        before = year - 1
        found["weekday"] = (before * 365 + before // 4 - before // 100 + before // 400 + found["day_of_year"] - 1) % 7 + 1
        return found


def formats_of(texts: Sequence[str]) -> Iterator[str]:
    """Yield the usual formats that all texts are times of."""
    for declared in USUAL_FORMATS:
        time_format = TimeFormat(declared)
        if all(time_format.parts(text) is not None for text in texts):
            yield declared
