"""Units of readings: equal ones, ones that pint converts, and ones that are refused."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from complex_system.errors import how_to_install


class Conversion(NamedTuple):
    """How numbers in one unit become numbers in another one: ``value * factor + offset``.

    Attributes:
        factor: Of the value.
        offset: Added after.
        problem: Why there is no conversion; empty where there is one.
    """

    factor: float = 1.0
    offset: float = 0.0
    problem: str = ""


SAME = Conversion()
_LONGEST = 40
_POWER_OF_NUMBER = re.compile(r"[\d)]\s*(\*\*|\^)|(\*\*|\^)\s*\(|\d{3}")
"""Texts come from outside, and pint computes what they say: 9**9**9 would take for hours."""


@lru_cache(maxsize=4096)
def conversion(given: str, declared: str) -> Conversion:
    """Return how numbers in a reading's unit become numbers in the declared one; a unit that is not given is the declared one."""
    given, declared = given.strip(), declared.strip()
    if not given or not declared or given == declared:
        return SAME
    made = _converted(given, declared)
    if isinstance(made, Conversion):
        return made
    return Conversion(problem=f"the unit is '{given}', and the declared one is '{declared}'; {made}")


def _converted(given: str, declared: str) -> Conversion | str:
    """Return the conversion, or why there is none."""
    if any(len(text) > _LONGEST or _POWER_OF_NUMBER.search(text) for text in (given, declared)):
        return "they cannot be converted"
    try:
        import pint
    except ImportError:
        return f"to convert units, install pint: {how_to_install('units')}"
    units = pint.get_application_registry()  # type: ignore[no-untyped-call]
    try:
        zero, one, ten = (float(units.Quantity(number, given).to(declared).magnitude) for number in (0.0, 1.0, 10.0))
        angles = {"radian" in str(units.get_root_units(text)[1]) for text in (given, declared)}
    except Exception as error:  # noqa: BLE001 - pint's parser raises errors of many kinds
        reason = "" if isinstance(error, pint.DimensionalityError) else f" ({type(error).__name__}: {error})"
        return f"they cannot be converted{reason}"
    if len(angles) > 1:
        return "one is of an angle, and the other one is not: 60 rpm would be 6.28 Hz"
    factor = (ten - zero) / 10 if zero else one
    if abs(one - zero - factor) > 1e-9 * max(abs(factor), abs(one)):
        return "the scale of one of them is not linear"
    return Conversion(factor, zero)
