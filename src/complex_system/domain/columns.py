"""The declaration of one raw column."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, StrictStr, root_validator

ID = "_id"
"""Name of the key column, in raw and in processed records, in both databases."""
ORDER = "_revision"
"""Field of a record that is sent to be saved, with the revision or time that its source gave it; it is not a column."""
ARRIVED = "_envelope_arrived"
"""Column with the time of arrival of the raw record, seconds since 1970 by the database's clock, in pages of processed records."""
LARGEST_INTEGER = 2**53
"""Whole numbers up to here are exact as floats; the pipeline processes them as floats."""

NUMERIC = ("number", "integer", "boolean")
"""Types that arithmetic steps take; a boolean is 0 or 1."""
LISTS = ("list of categories", "list of shares")

FAR = 1e9
"""Times the width of its range that a number may lie outside of it where it is taken as it is: models take float32."""

MARKERS = (
    "NA", "N/A", "n/a", "N.A.", "n.a.", "n. a.", "<NA>", "#N/A", "#N/A N/A", "#NA", "#NV", "NaN", "nan", "NAN", "-NaN", "-nan",
    "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "NULL", "Null", "null", "None", "none", "NONE", "k.A.", "k. A.", "k.a.", "-", "--",
    "---",
)  # fmt: skip
"""Texts that stand for a missing value where the declaration does not list others, those that pandas reads so among them."""

_LIMIT = re.compile(r"\s*([<>≤≥])=?\s*([+-]?[\d.,]*\d[\d.,]*(?:[eE][+-]?\d+)?)\s*(\S{0,15})\s*")
_PLAIN = re.compile(r"[+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:(?:\.\d{3})+,\d+|(?:,\d{3})+\.\d+)")
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")
"""1,234: thousands or decimals."""


@dataclass(frozen=True)
class Limit:
    """A value beyond a limit, as people write it: ``<0.01``, ``> 100``, ``<0,01 mg/l``.

    Attributes:
        side: Where the value is: left for below.
        number: The limit, in any notation.
        unit: What stands behind it; mostly empty.
    """

    side: Literal["left", "right"]
    number: str
    unit: str

    @classmethod
    def of(cls, text: str) -> Limit | None:
        """Return the limit that a text names; None for other texts."""
        if not (found := _LIMIT.fullmatch(text)):
            return None
        return cls("left" if found[1] in "<≤" else "right", found[2], found[3])

    def value(self, *, points: bool) -> float | None:
        """Return the limit where it has one reading by itself.

        Args:
            points: Whether a point is always a decimal sign, as in JSON.
        """
        if _EITHER.fullmatch(self.number) and not (points and "." in self.number):
            return None
        if _GROUPED.fullmatch(self.number):
            grouping = "," if self.number.rfind(",") < self.number.rfind(".") else "."
            return float(self.number.replace(grouping, "").replace(",", "."))
        return float(self.number.replace(",", ".")) if _PLAIN.fullmatch(self.number) else None


class Declared(BaseModel):
    """A part of a declaration: unknown keys are refused, and it does not change."""

    class Config:
        extra = "forbid"
        frozen = True
        allow_population_by_field_name = True


class Column(Declared):
    """One raw column: its name as in the source, what its values are, and what stands in for a missing one."""

    name: str = Field(min_length=1, description="Name of the column, exactly as in the source")
    type: Literal["number", "integer", "category", "boolean", "text", "datetime", "list of categories", "list of shares"] = (
        Field(description="What the values are; text is kept and not used")
    )
    description: str = Field("", description="For readers, and in the REST interface's documentation")
    unit: str = Field("", description="Unit of the values, for readers")
    optional: bool = Field(False, description="Whether the value may be missing")
    range: tuple[float, float] | None = Field(
        None, description="Smallest and largest value that is processed, both included, in the column's own unit"
    )
    outside: Literal["refuse", "warn", "clip"] = Field(
        "refuse",
        description="What becomes of a number outside of the range. refuse: its record is refused; warn: it is taken as it is and "
        "counted; clip: the nearer end of the range is used instead, and it is counted",
    )
    fill: StrictStr | float | None = Field(
        None,
        description="What stands in for a missing value: a number in the column's own unit, a category, a time, true or false",
    )
    missing_values: tuple[float, ...] = Field((), description="Numbers that stand for a missing value, such as -9999 or 999")
    censored: Literal["left", "right", "both"] | None = Field(
        None,
        description="left: a value written as <0.01 is below the detection limit, and a part of the limit stands in for it; right: "
        "for one written as >100 the limit itself does; both: either may occur",
    )
    limit_share: float = Field(0.5, ge=0, le=1, description="Part of the detection limit that is used for a value below it")
    categories: tuple[str, ...] = Field((), description="All values that a category, or an entry of a list, may have")
    spellings: dict[str, tuple[str, ...]] = Field(
        {}, description="Other spellings of a category, each exactly as it is written, by the category that they are read as"
    )
    format: str = Field("", description="How a time is written, with Python's codes, for example %d.%m.%Y %H:%M")

    _markers: frozenset[str] = PrivateAttr(frozenset(("", *MARKERS)))
    _spelled: dict[str, str] = PrivateAttr({})

    def __init__(self, **content: Any) -> None:
        super().__init__(**content)
        self._spelled = {written: category for category, others in self.spellings.items() for written in others}

    @root_validator(skip_on_failure=True)
    def _consistent(cls, values: dict[str, Any]) -> dict[str, Any]:
        name, type_, fill = values["name"], values["type"], values["fill"]
        if name == ID:
            raise ValueError(f"'{ID}' is the key and cannot be declared as a column; name the source's key column in 'id'")
        if "\0" in name:
            raise ValueError(f"the name {name!r} has a zero character, which tables cannot store; rename the column")
        if type_ in ("category", "list of categories"):
            if not values["categories"]:
                raise ValueError(f"column '{name}' is a {type_} and declares no categories; list all values that may occur")
            doubles = sorted({c for c in values["categories"] if values["categories"].count(c) > 1})
            if doubles:
                raise ValueError(f"column '{name}' declares the category {_quoted(doubles)} more than once")
        elif values["categories"]:
            raise ValueError(
                f"column '{name}' of type {type_} cannot have categories; only category and list of categories can"
            )
        _check_spellings(name, type_, values["categories"], values["spellings"])
        _check_range(name, type_, values["range"])
        if values["outside"] != "refuse" and values["range"] is None:
            raise ValueError(f"column '{name}' declares 'outside: {values['outside']}' and no range to be outside of")
        if values["censored"] and type_ != "number":
            raise ValueError(f"column '{name}' of type {type_} cannot be censored; only number can")
        if values["censored"] == "right" and values["limit_share"] != cls.__fields__["limit_share"].default:
            raise ValueError(
                f"column '{name}' declares limit_share, which is for values below a limit, and 'censored: right'"
            )
        _check_missing_values(name, type_, values["missing_values"], fill)
        if fill is not None:
            _check_fill(name, type_, fill, values["categories"], values["range"])
        return values

    def with_markers(self, markers: Iterable[str]) -> Column:
        """Return the column with other texts that stand for a missing value; an empty text always does."""
        made = self.copy()
        made._markers = frozenset(("", *markers))
        return made

    @property
    def spelled(self) -> dict[str, str]:
        """The categories by their other spellings."""
        return self._spelled

    @property
    def markers(self) -> frozenset[str]:
        """Texts that stand for a missing value of this column: those of the declaration, without its own categories."""
        if self.type == "text" and not self.optional:
            return frozenset()
        return self._markers.difference(self.categories, self._spelled)

    def is_missing(self, value: object) -> bool:
        """Return whether a value stands for a missing one: in files, messages and requests alike.

        Nothing (None), NaN, a marker with or without blanks around it unless it is a declared category, and one of ``missing_values``
        do. A text that is not optional is kept as it is written: it is not used, and its record must not be lost for it.
        """
        if value is None:
            return True
        if isinstance(value, str):
            if self.type == "text" and not self.optional:
                return False
            stripped = value.strip()
            return stripped in self._markers and not {stripped, value} & {*self.categories, *self._spelled}
        if isinstance(value, float) and math.isnan(value):
            return True
        return bool(self.missing_values) and isinstance(value, int | float) and value in self.missing_values

    def read(self, value: Any) -> Any:
        """Return what a single value means by the declaration, in files, messages and requests alike; others as they are.

        None where it stands for a missing one (:meth:`is_missing`), the category of another spelling, a number for a value beyond a
        limit where the column is ``censored``.
        """
        if self.is_missing(value):
            return None
        if isinstance(value, str):
            if self._spelled:
                return self._spelled.get(value, value)
            if self.censored and (limit := Limit.of(value)):
                number = self.stand_in(limit, limit.value(points=True))
                return value if number is None else number
        return value

    def stand_in(self, limit: Limit, number: float | None) -> float | None:
        """Return what is used for a value beyond a limit; None where the column declares nothing for it.

        Below it, that is a part of the limit, or all of it where it is not positive: half of -20 would be above it. Above it, that is
        the limit itself, the nearest number that the value may have.

        Args:
            limit: What is written.
            number: The limit as a number; None where it has no single reading.
        """
        if number is None or self.censored not in (limit.side, "both") or limit.unit not in ("", self.unit):
            return None
        return number * self.limit_share if limit.side == "left" and number > 0 else number

    def limit_problem(self, value: object) -> str:
        """Return why a value beyond a limit is not read, and what to do; empty for other values."""
        limit = Limit.of(value) if isinstance(value, str) and self.type == "number" else None
        if limit is None:
            return ""
        side = f"is {'below' if limit.side == 'left' else 'above'} a limit"
        if self.censored not in (limit.side, "both"):
            declared = "both" if self.censored else limit.side
            return f"{side}: declare 'censored: {declared}' for the column"
        if limit.unit not in ("", self.unit):
            has = f"'{self.unit}'" if self.unit else "no unit"
            return f"{side} in '{limit.unit}', and the column declares {has}; leave the unit out, or declare it"
        if _EITHER.fullmatch(limit.number):
            whole, fraction = re.sub("[.,]", "", limit.number), limit.number.replace(",", ".")
            return f"{side} that can be {whole} or {fraction}; write it without the sign, or with other than three digits behind it"
        return f"{side} that is not a number; write it as {'<' if limit.side == 'left' else '>'}0.01"

    @property
    def is_numeric(self) -> bool:
        """Whether arithmetic steps take the column."""
        return self.type in NUMERIC

    @property
    def limits(self) -> tuple[float, float] | None:
        """The declared range; 0 and 1 for a boolean; None for what has none."""
        return (0.0, 1.0) if self.type == "boolean" else self.range

    @property
    def accepted(self) -> tuple[float, float]:
        """The smallest and largest number whose record is processed: the range, unless ``outside`` says more."""
        largest = sys.float_info.max
        if self.limits is None or self.outside == "clip":
            return -largest, largest
        low, high = self.limits
        beyond = FAR * (high - low) if self.outside == "warn" else 0.0
        return max(low - beyond, -largest), min(high + beyond, largest)

    def is_outside(self, value: object) -> bool:
        """Return whether a value is a number outside of the range that does not cost its record (``outside``)."""
        if self.outside == "refuse" or self.range is None or not isinstance(value, int | float):
            return False
        return not (self.range[0] <= value <= self.range[1] or self.is_missing(value))


def counts_text(counts: Mapping[str, int], limit: int = 5) -> str:
    """Return counts by column for a message, the largest first: ``Temp 3, Druck 1``."""
    ordered = sorted(counts.items(), key=lambda each: -each[1])
    more = f" and {len(ordered) - limit} more columns" if len(ordered) > limit else ""
    return ", ".join(f"{name} {count:,}" for name, count in ordered[:limit]) + more


def raw_name(column: str) -> str:
    """Return the name that a raw column has in pages of processed records, whose own columns may have any other name."""
    return f"_envelope_raw_{column}"


def _check_range(name: str, type_: str, declared: tuple[float, float] | None) -> None:
    if declared is None:
        return
    if type_ not in ("number", "integer"):
        raise ValueError(f"column '{name}' of type {type_} cannot have a range; only number and integer can")
    low, high = declared
    if not (-math.inf < low < high < math.inf):
        raise ValueError(f"column '{name}' declares an empty or infinite range {[low, high]}; write [smallest, largest]")
    if not math.isfinite(high - low) or not math.isfinite(1 / (high - low)):
        raise ValueError(f"column '{name}' declares a range {[low, high]} that is too wide or too narrow to compute with")


def _check_spellings(name: str, type_: str, categories: tuple[str, ...], declared: dict[str, tuple[str, ...]]) -> None:
    if declared and type_ != "category":
        raise ValueError(f"column '{name}' of type {type_} cannot have spellings; only category can")
    if unknown := sorted(declared.keys() - {*categories}):
        raise ValueError(f"column '{name}' declares spellings of {_quoted(unknown)}, which is not one of its categories")
    written = [each for others in declared.values() for each in others]
    if both := sorted({each for each in written if each in categories or written.count(each) > 1}):
        raise ValueError(
            f"column '{name}' declares the spelling {_quoted(both)} twice, or as a category, too; it can be read as one category only"
        )


def _check_missing_values(name: str, type_: str, declared: tuple[float, ...], fill: str | float | None) -> None:
    if declared and type_ not in ("number", "integer"):
        raise ValueError(
            f"column '{name}' of type {type_} cannot have missing_values; only number and integer can. Texts that stand for a "
            "missing value are listed in 'missing' of the declaration"
        )
    if not all(map(math.isfinite, declared)):
        raise ValueError(f"column '{name}' declares missing_values that are not finite; NaN is always a missing value")
    if fill in declared:
        raise ValueError(f"column '{name}' declares {fill:g} as its fill and in missing_values; keep one of the two")


def _check_fill(
    name: str, type_: str, fill: str | float, categories: tuple[str, ...], limits: tuple[float, float] | None
) -> None:
    if type_ in ("text", *LISTS):
        raise ValueError(f"column '{name}' of type {type_} cannot have a fill")
    if type_ in ("category", "datetime") and not isinstance(fill, str):
        raise ValueError(f"column '{name}' needs its fill in quotes, because it is a {type_}")
    if type_ == "category" and fill not in categories:
        raise ValueError(f"column '{name}' declares the fill '{fill}', which is not one of its categories")
    if type_ not in NUMERIC:
        return
    if isinstance(fill, str) or not math.isfinite(fill):
        raise ValueError(f"column '{name}' is a {type_} and needs a {type_} as its fill, not '{fill}'")
    if type_ == "boolean" and fill not in (0, 1):
        raise ValueError(f"column '{name}' is a boolean; its fill is true or false")
    if type_ == "integer" and fill != int(fill):
        raise ValueError(f"column '{name}' is an integer and declares a fill of {fill}")
    if limits and not limits[0] <= fill <= limits[1]:
        raise ValueError(f"column '{name}' declares a fill of {fill} outside of its range {list(limits)}")


def _quoted(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
