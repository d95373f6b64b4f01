"""Random valid declarations with every type and step, and random records within them, for property tests.

Declarations are a hypothesis strategy; records are made with a ``random.Random``, so that a test may have hypothesis make them
(``st.randoms``) where it should shrink them, or many of them of a seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import yaml
from hypothesis import strategies as st

from complex_system.domain.columns import LARGEST_INTEGER, Column
from complex_system.domain.dataset import Dataset
from complex_system.domain.records import Record
from complex_system.domain.steps import STEPS, Bins
from complex_system.domain.validation import intervals
from complex_system.pipeline.pipeline import Pipeline
from complex_system.training.split import Part
from samples import parts_of_records

Declaration = dict[str, Any]
Step = dict[str, Any]
Interval = tuple[float, float]

KINDS = ("number", "integer", "category", "boolean", "text", "datetime", "list of categories", "list of shares")
NAMES = (
    "Temp. [°C]", "temp. [°C]", "TEMP. [°C]", "select", "SELECT", "order", "NULL", "null", "Größe", "größe", "GRÖSSE", "Grosse",
    "a.b", "a_b", "a b", "a", "A", "$id", "$where", "_pipeline", "_ID", "id", "100 %", "x;y", "x,y", "`tick`", "'", '"', "\\", "?",
    "%s", ":name", "#", "--", "/*", "ı", "I", "i", "ß", "ss", "µm", "μm", "é", "e\u0301", "𝒳", "日本", "😀", " ", " leading",
    "trailing ", "tab\tname", "line\nfeed", "[", "]", "{}", "(m/s)²", "007", "NO", "true", "1e3", "~", "reason", "version", "n" * 64,
    "n" * 65, "ü" * 200, "__row__", "as", "features", "prediction", "records", "0", "-1", "a\u200bb",
)  # fmt: skip
"""Names that somebody's code takes for something else."""
CATEGORIES = (
    "A", "a", "B", "b c", "007", "7", "NO", "no", "null", "", " ", "ä; ö", "ü", "'", '"', "😀", "1.0", "nan", "None", "true", "x\ty",
    "A_B", "$", ".", "é", "e\u0301",
)  # fmt: skip
FORMATS = (
    "%d.%m.%Y", "%Y-%m-%dT%H:%M:%S", "%d.%m.%Y, %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f", "%m/%d/%Y %H:%M", "%Y%m%d", "[%d] (%m) $%Y^ %H?",
    "%H Uhr %M am %d.%m.%Y", "%S %Y.%d.%m", "%d.%m.%y %H:%M",
)  # fmt: skip
TEXTS = (
    "",
    " ",
    "Öl: 'läuft'",
    "a\0b",
    '"; DROP TABLE x; --',
    "😀" * 3,
    "\u2028\ufeff",
    "null",
    "x\\'y",
    "\r\n",
    "%s?",
    "é",
    "e\u0301",
)
NUMBERS = (
    0.0,
    -0.0,
    5e-324,
    -1.7976931348623157e308,
    1.7976931348623157e308,
    0.1 + 0.2,
    1 / 3,
    1e22,
    123456789.123456789,
    2.0**63,
)
_WIDEST = 1e30

_letters = st.characters(codec="utf-8", exclude_characters="\0")
any_name = st.sampled_from(NAMES) | st.text(_letters, min_size=1, max_size=12)
any_category = st.sampled_from(CATEGORIES) | st.text(_letters, max_size=6)


def _usable(name: str) -> bool:
    return name != "_id"


@st.composite
def declarations(draw: Any, *, most_columns: int = 10) -> Declaration:
    """The content of a valid ``dataset.yaml``."""
    names = draw(st.lists(any_name.filter(_usable), unique=True, min_size=2, max_size=most_columns))
    target, *others = names
    always = others.pop()
    columns: list[Declaration] = [{"name": always, "type": "number", "range": [-2.5, 40]}]
    mixtures: list[tuple[str, str]] = []
    while others:
        kind = draw(st.sampled_from(KINDS))
        name = others.pop()
        if kind.startswith("list"):  # both lists, where there is a name for the second
            columns.append(draw(_column(name, "list of categories")))
            if others:
                columns.append({"name": others.pop(), "type": "list of shares", "optional": True})
                mixtures.append((name, columns[-1]["name"]))
            continue
        columns.append(draw(_column(name, kind)))
    wanted: Declaration = {"name": target, "type": "number", "optional": True}
    if draw(st.booleans()):
        wanted["range"] = [-1000, 1000]
    columns.insert(draw(st.integers(0, len(columns))), wanted)
    free = [column for column in columns if column["name"] != target]
    made = _Pipeline(draw, {column["name"]: Column.parse_obj(column) for column in columns}, target)
    for column in draw(st.permutations(free)):
        partner = next((shares for name, shares in mixtures if name == column["name"]), "")
        made.use(column["name"], partner)
    made.combine()
    made.ensure(always)
    content: Declaration = {"name": "anything", "target": target, "columns": columns, "pipeline": made.steps}
    if draw(st.booleans()):
        content["id"] = draw(any_name.filter(lambda name: name not in names and _usable(name)))
    return content


def datasets(**options: Any) -> st.SearchStrategy[Dataset]:
    """Random declared data sets."""
    return declarations(**options).map(dataset_of)


def dataset_of(content: Declaration) -> Dataset:
    """The data set of a declaration, through its YAML."""
    return Dataset.parse(text_of(content))


def text_of(content: Declaration) -> str:
    """A declaration as YAML."""
    return str(yaml.safe_dump(content, sort_keys=False, width=10_000))


@st.composite
def _column(draw: Any, name: str, kind: str) -> Declaration:  # noqa: PLR0912 - one branch a type
    column: Declaration = {"name": name, "type": kind}
    if draw(st.booleans()):
        column["optional"] = True
    filled = column.get("optional") and draw(st.booleans())
    match kind:
        case "number":
            low = draw(st.sampled_from([0.0, -1.0, 1e-3, 1.0, -273.15, 1e9, -1e15, 1e-12]) | st.floats(-1e6, 1e6))
            high = low + draw(st.sampled_from([1.0, 7.3, 1e9, 1e15]) | st.floats(1e-3, 1e6)) * max(1.0, abs(low) * 1e-9)
            column["range"] = [low, high]
        case "integer":
            ends = st.sampled_from([0, 1, -1, 10, 255, LARGEST_INTEGER, -LARGEST_INTEGER, 2**31]) | st.integers(-1000, 1000)
            low, high = sorted(draw(st.lists(ends, min_size=2, max_size=2, unique=True)))
            column["range"] = [low, high]
        case "boolean":
            if filled:
                column["fill"] = draw(st.booleans())
        case "category" | "list of categories":
            column["categories"] = draw(st.lists(any_category, unique=True, min_size=1, max_size=5))
            if kind == "category" and filled:
                column["fill"] = draw(st.sampled_from(column["categories"]))
        case "datetime":
            column["format"] = draw(st.sampled_from(FORMATS))
            if filled:
                column["fill"] = time_text(column["format"], datetime(2024, 2, 29, 23, 59, 58), padded=True)
    if kind in ("number", "integer"):
        low, high = column["range"]
        if filled:
            column["fill"] = draw(st.sampled_from([low, high])) if kind == "integer" else draw(_between(low, high))
        elif draw(st.integers(0, 5)) == 0:
            del column["range"]  # then no step can take it
        if "range" in column and draw(st.booleans()):
            column["outside"] = draw(st.sampled_from(["refuse", "warn", "clip"]))
    return column


def _between(low: float, high: float) -> st.SearchStrategy[float]:
    return st.sampled_from([low, high]) | st.floats(low, high)


class _Pipeline:
    """Steps that fit the columns and each other."""

    def __init__(self, draw: Any, columns: dict[str, Column], target: str) -> None:
        self._draw, self._columns, self._target = draw, columns, target
        self._results: set[str] = set(columns)
        self._features: set[str] = {target, "_id"}
        self._steps: list[Step] = []
        self._dropped: list[str] = []
        self._numbers: list[str] = []

    def use(self, name: str, partner: str) -> None:
        """Steps for a raw column, or none."""
        column, draw = self._columns[name], self._draw
        chance = draw(st.integers(0, 9))
        if chance == 0 or column.type in ("text", "list of shares"):
            if draw(st.booleans()) and not any(name == step.get("shares") for step in self._steps):
                self._dropped.append(name)
            return
        match column.type:
            case "category":
                self._named({"step": "one_hot", "column": name}, column.categories)
            case "list of categories":
                if partner and partner not in self._dropped and draw(st.integers(0, 3)):
                    self._named({"step": "shares", "column": name, "shares": partner}, column.categories)
                if not partner or draw(st.booleans()):
                    self._named({"step": "multi_hot", "column": name}, column.categories)
            case "datetime":
                if column.optional and column.fill is None:
                    return
                every = ["year", "month", "day", "hour", "minute", "second", "weekday", "day_of_year"]
                parts = draw(st.lists(st.sampled_from(every), unique=True, min_size=1))
                self._named({"step": "date_parts", "column": name, "parts": parts}, parts)
            case _:
                self._use_number(name, column)

    def _use_number(self, name: str, column: Column) -> None:
        draw = self._draw
        if column.limits is None:
            return
        if column.optional and column.fill is None:
            low, high = column.limits
            value = draw(st.sampled_from([low, high]) if column.type == "boolean" else _between(low, high))
            self._arithmetic({"step": "impute", "column": name, "value": value})
            return
        self._numbers.append(name)
        for _ in range(draw(st.integers(1, 2))):
            self._one_number(name)

    def _one_number(self, name: str) -> None:
        draw, (low, high) = self._draw, self._known()[name]
        width = high - low
        kinds = ["keep", "standardise", "bins", "clip", "log", "log"]
        kinds += ["scale", "scale"] if low < high else []
        kinds += ["box_cox"] if low > 0 and high / low < 1e6 and high < 1e6 else []
        kind = draw(st.sampled_from(kinds))
        step: Step = {"step": kind, "column": name}
        if kind == "scale":
            step["to"] = list(draw(st.sampled_from([(0, 1), (-1, 1), (1, 0), (5, 7.5), (1, 1e-9), (-3, -1)])))
        elif kind == "standardise":
            step |= {
                "mean": draw(_between(low, high)),
                "deviation": draw(st.sampled_from([1.0, 0.3, 7.7])) * max(width, 1e-6),
            }
        elif kind == "clip":
            ends = sorted(
                {low + width * draw(st.sampled_from([-0.5, 0, 0.2])), low + width * draw(st.sampled_from([0.7, 1, 2]))}
            )
            if len(ends) < 2:
                return
            step["to"] = ends
        elif kind == "log":
            step["plus"] = (
                0 if low > 0 and draw(st.booleans()) else draw(st.sampled_from([1, 1e-3])) * max(1.0, abs(low)) - low
            )
            if not low + step["plus"] > 0:
                return
        elif kind == "box_cox":
            step["power"] = draw(
                st.sampled_from([0, 1, 0.5, -1.5, 2, 0.3]) | st.floats(-2, 2).filter(lambda p: abs(p) > 1e-3)
            )
        elif kind == "bins":
            inner = draw(st.lists(st.floats(0.01, 0.99), max_size=4))
            edges = sorted({low, high, *(low + width * each for each in inner)})
            if len(edges) < 2 or edges[-1] != high or edges[0] != low:
                return
            labels = draw(st.lists(any_category, unique=True, min_size=len(edges) - 1, max_size=len(edges) - 1))
            self._named({"step": "bins", "column": name, "edges": edges, "labels": labels}, labels)
            return
        self._arithmetic(step)

    def combine(self) -> None:
        """Steps on results, products and ratios."""
        draw = self._draw
        for _ in range(draw(st.integers(0, 4))):
            if not self._numbers:
                return
            known = self._known()
            kind = draw(st.sampled_from(["chain", "chain", "product", "ratio"]))
            if kind == "chain":
                self._one_number(draw(st.sampled_from(self._numbers)))
            elif kind == "product":
                columns = draw(st.lists(st.sampled_from(self._numbers), min_size=2, max_size=3))
                if math.prod(max(map(abs, known[each])) or 1.0 for each in columns) < _WIDEST:
                    self._arithmetic({"step": "product", "columns": columns}, always_named=True)
            else:
                by = [name for name in self._numbers if not known[name][0] <= 0 <= known[name][1]]
                if by:
                    step = {"step": "ratio", "column": draw(st.sampled_from(self._numbers)), "by": draw(st.sampled_from(by))}
                    ends = [abs(a / b) for a in known[step["column"]] for b in known[step["by"]]]
                    if max(ends) < _WIDEST:
                        self._arithmetic(step, always_named=True)

    @property
    def steps(self) -> list[Step]:
        """The pipeline."""
        return [{"step": "drop", "columns": self._dropped}, *self._steps] if self._dropped else self._steps

    def ensure(self, column: str) -> None:
        """Makes a feature of a raw number where there is none."""
        if not self._features - {self._target, "_id"}:
            self._dropped = [name for name in self._dropped if name != column]
            self._steps.append({"step": "keep", "column": column})

    def _arithmetic(self, step: Step, *, always_named: bool = False) -> None:
        draw = self._draw
        own = step.get("column", "")
        named = always_named or own in self._features or own not in self._columns or draw(st.booleans())
        if named:
            step["as"] = draw(
                any_name.filter(lambda name: name not in self._results and name not in self._features and _usable(name))
            )
        trial = [STEPS[each["step"]].parse_obj(each) for each in (*self._steps, step)]
        known, _, faults = intervals(tuple(trial), self._columns)
        if faults:  # with a value outside of a range it could be beyond what models take
            return
        if named and not max(map(abs, known.get(step["as"], (math.inf, math.inf)))) < _WIDEST:
            return
        if not named and not max(map(abs, trial[-1].interval([self._known()[own]]))) < _WIDEST:  # type: ignore[attr-defined]
            return
        if named:
            self._results.add(step["as"])
            self._numbers.append(step["as"])
        if named and draw(st.integers(0, 3)) == 0:
            step["feature"] = False
        else:
            self._features.add(step.get("as", own))
        self._steps.append(step)

    def _named(self, step: Step, endings: Iterable[str]) -> None:
        """A step that makes several features, with a prefix that keeps their names apart."""
        prefix, number = step["column"], 0
        if self._draw(st.integers(0, 3)) == 0:
            prefix = step["prefix"] = self._draw(any_name)
        while (names := {f"{prefix}_{ending}" for ending in endings}) & self._features:
            number += 1
            prefix = step["prefix"] = f"{step['column']} {number}"
        self._features |= names
        self._steps.append(step)

    def _known(self) -> dict[str, Interval]:
        return intervals(tuple(STEPS[step["step"]].parse_obj(step) for step in self._steps), self._columns).known


def time_text(form: str, time: datetime, *, padded: bool) -> str:
    """A time in a declared format, its numbers with leading zeros or, where the format allows, without."""
    digits = {"%Y": f"{time.year:04}", "%y": f"{time.year % 100:02}", "%f": f"{time.microsecond:06}"}
    for code, value in (("%m", time.month), ("%d", time.day), ("%H", time.hour), ("%M", time.minute), ("%S", time.second)):
        digits[code] = f"{value:02}" if padded else str(value)
    for code, text in digits.items():
        form = form.replace(code, text)
    return form


def record_of(dataset: Dataset, draw: random.Random) -> Record:
    """A record that can be processed, without its key; values at the ends of what is allowed are frequent."""
    edges = {step.column: step.edges for step in dataset.pipeline if isinstance(step, Bins)}
    record: Record = {}
    for column in dataset.columns:
        if column.type != "list of shares":
            missing = column.optional and draw.random() < 0.25
            record[column.name] = None if missing else _MAKERS[column.type](column, draw, edges.get(column.name, ()))
    shares_of = {step.shares: step.column for step in dataset.pipeline if step.step == "shares"}
    for column in dataset.columns:
        if column.type == "list of shares":
            entries = record.get(shares_of.get(column.name, "")) or []
            record[column.name] = _shares(len(entries), draw)
    return record


def _number(column: Column, draw: random.Random, edges: tuple[float, ...]) -> float:
    if column.limits is None:
        return draw.choice(NUMBERS)
    low, high = column.limits
    if column.outside != "refuse" and draw.random() < 0.3:
        least, most = column.accepted
        return min(max(draw.choice([low, high]) + draw.choice([-1, 1]) * draw.random() * (high - low), least), most)
    inside = min(max(low + (high - low) * draw.random(), low), high)
    near = [math.nextafter(low, high), math.nextafter(high, low), *[edge for edge in edges if low <= edge <= high]]
    return draw.choice(
        [
            low,
            high,
            inside,
            inside,
            inside,
            inside,
            draw.choice(near),
            round(inside, 1) if low <= round(inside, 1) <= high else low,
        ]
    )


def _integer(column: Column, draw: random.Random, edges: tuple[float, ...]) -> int:
    low, high = column.limits or (-LARGEST_INTEGER, LARGEST_INTEGER)
    return draw.choice([int(low), int(high), draw.randint(int(low), int(high)), draw.randint(int(low), int(high))])


def _time(column: Column, draw: random.Random, edges: tuple[float, ...]) -> str:
    time = datetime(1, 1, 1) + timedelta(seconds=draw.randrange(0, 3652058 * 86400))
    time = draw.choice([time, datetime(2024, 2, 29), datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59)])
    return time_text(column.format, time, padded=column.format == "%Y%m%d" or draw.random() < 0.7)


def _entries(column: Column, draw: random.Random, edges: tuple[float, ...]) -> list[str]:
    return draw.sample(column.categories, draw.randint(0, len(column.categories)))


def _shares(count: int, draw: random.Random) -> list[float] | None:
    if count == 0:
        return draw.choice([None, []])
    if count == 1:
        return draw.choice([None, [1.0]])
    weights = [draw.randint(0, 9) for _ in range(count - 1)] + [draw.randint(1, 9)]
    return [weight / sum(weights) for weight in weights]


_MAKERS: dict[str, Callable[[Column, random.Random, tuple[float, ...]], Any]] = {
    "number": _number,
    "integer": _integer,
    "boolean": lambda column, draw, edges: draw.random() < 0.5,
    "category": lambda column, draw, edges: draw.choice(column.categories),
    "text": lambda column, draw, edges: draw.choice(TEXTS),
    "datetime": _time,
    "list of categories": _entries,
}


def labelled_records(
    dataset: Dataset, seed: int, each: tuple[int, int, int] = (24, 8, 8), unlabelled: int = 8
) -> list[Record]:
    """Records with keys; so many with a target in each part of the split, which follow a simple law, and some without.

    Args:
        dataset: Whose records.
        seed: The same seed makes the same records.
        each: Labelled ones in the train, validation and hold-out part.
        unlabelled: Others.
    """
    draw = random.Random(seed)
    parts = [part for part, count in zip(Part, each, strict=True) for _ in range(count)] + [None] * unlabelled
    draw.shuffle(parts)
    pipeline = Pipeline(dataset)
    made, number = [], 0
    for part in parts:
        record = record_of(dataset, draw)
        while True:
            number += 1
            key = f"{draw.choice(['', 'ü', 'Z ', '😀', 'a.', '$', '0'])}{number}"
            record[dataset.target] = None if part is None else round(draw.uniform(-1000, 1000), draw.randint(0, 12))
            if part is None or parts_of_records(pipeline, [{"_id": key, **record}]) == [part]:
                break
        made.append({"_id": key, **record})
    return made
