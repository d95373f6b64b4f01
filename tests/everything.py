"""A data set with every type and every step, and records of it for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from complex_system.domain.dataset import Dataset

TEXT = """
name: everything
id: Chargen-Nr.
target: quality
columns:
  - {name: "Temp. [°C]", type: number, range: [-40, 250], unit: °C}
  - {name: "temp. [°c]", type: number, range: [0.5, 80], optional: true, fill: 20.5}
  - {name: select, type: integer, range: [0, 1000], optional: true, fill: 7}
  - {name: "Größe", type: number, range: [0.001, 1000000], optional: true}
  - {name: an, type: boolean, optional: true, fill: true}
  - {name: Sorte, type: category, categories: [A, "b c", 007, NO], optional: true, fill: A}
  - {name: Ort, type: category, categories: [x, y], optional: true}
  - {name: Zeit, type: datetime, format: "%d.%m.%Y %H:%M", optional: true, fill: "31.12.2025 23:59"}
  - {name: Stoffe, type: list of categories, categories: [K1, K2, K3], optional: true}
  - {name: Anteile, type: list of shares, optional: true}
  - {name: Notiz, type: text, optional: true}
  - {name: Prüfer, type: text, optional: true}
  - {name: quality, type: number, range: [-1000, 1000], optional: true, unit: "%"}
pipeline:
  - {step: drop, columns: [Prüfer]}
  - {step: one_hot, column: Sorte}
  - {step: one_hot, column: Ort}
  - {step: multi_hot, column: Stoffe, prefix: has}
  - {step: shares, column: Stoffe, shares: Anteile, prefix: share}
  - {step: date_parts, column: Zeit, parts: [year, month, day, hour, minute, second, weekday, day_of_year]}
  - {step: bins, column: select, edges: [0, 10, 100, 1000], labels: [few, some, many]}
  - {step: scale, column: "Temp. [°C]", to: [-1, 1]}
  - {step: standardise, column: "temp. [°c]", mean: 33.3, deviation: 7.7}
  - {step: keep, column: an}
  - {step: impute, column: Größe, value: 2.5, as: size}
  - {step: log, column: size, as: size_log, feature: false}
  - {step: scale, column: size_log, as: size_scaled}
  - {step: log, column: select, plus: 1, as: select_log}
  - {step: box_cox, column: size, power: 0.3, as: size_cox}
  - {step: box_cox, column: size, power: 0, as: size_cox_0}
  - {step: clip, column: "Temp. [°C]", to: [0, 100], as: clipped}
  - {step: bins, column: clipped, edges: [0, 50, 100], labels: [low, high]}
  - {step: product, columns: ["temp. [°c]", "Temp. [°C]", select], as: energy}
  - {step: ratio, column: select, by: "temp. [°c]", as: per_degree}
  - {step: standardise, column: per_degree, mean: 1.1, deviation: 0.3, as: per_degree_standard}
"""

EVERYTHING = Dataset.parse(TEXT)


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.sampled_from([low, high]) | st.floats(low, high)


@st.composite
def _mixtures(draw: Any) -> dict[str, Any]:
    entries = draw(st.none() | st.lists(st.sampled_from(["K1", "K2", "K3"]), unique=True, max_size=3))
    if not entries or (len(entries) == 1 and draw(st.booleans())):
        return {"Stoffe": entries, "Anteile": None}
    weights = [draw(st.integers(1, 50)) for _ in entries]
    return {"Stoffe": entries, "Anteile": [weight / sum(weights) for weight in weights]}


@st.composite
def records(draw: Any) -> dict[str, Any]:
    """A record that can be processed."""
    time = st.tuples(st.integers(1, 28), st.integers(1, 12), st.integers(1, 9999), st.integers(0, 23), st.integers(0, 59))
    leap = st.sampled_from(["29.02.2024 00:00", "29.02.2000 1:2", "31.12.2024 23:59", "1.3.1900 00:00"])
    return {
        "_id": draw(st.none() | st.text("0123456789abcdef", min_size=1, max_size=8)),
        "Temp. [°C]": draw(number(-40, 250)),
        "temp. [°c]": draw(st.none() | number(0.5, 80)),
        "select": draw(st.none() | st.integers(0, 1000)),
        "Größe": draw(st.none() | number(0.001, 1e6)),
        "an": draw(st.none() | st.booleans()),
        "Sorte": draw(st.none() | st.sampled_from(["A", "b c", "007", "NO"])),
        "Ort": draw(st.none() | st.sampled_from("xy")),
        "Zeit": draw(st.none() | leap | time.map(lambda t: f"{t[0]:02}.{t[1]}.{t[2]:04} {t[3]:02}:{t[4]}")),
        **draw(_mixtures()),
        "Notiz": draw(st.none() | st.text(max_size=5)),
        "Prüfer": None,
        "quality": draw(st.none() | number(-1000, 1000)),
    }


@st.composite
def anything(draw: Any) -> dict[str, Any]:
    """A well-formed record that can often not be processed."""
    record = draw(records())
    entry = st.sampled_from(["K1", "K2", "K3", "K4", ""])
    wrong = {
        "Temp. [°C]": st.none() | st.floats(),
        "select": st.integers(-5, 2000),
        "Größe": st.floats(-1, 1),
        "Sorte": st.sampled_from(["a", "", "7"]),
        "Zeit": st.sampled_from(
            ["30.02.2024 00:00", "29.02.1900 00:00", "1.1.0000 00:00", "31.4.2000 1:1", "1.1.2000 24:00", "", "x"]
        )
        | st.sampled_from(
            ["1.1.2000 00:00\n", "٠1.01.2000 00:00", " 1.1.2000 00:00", "00.01.2000 00:00", "1.13.2000 00:00"]
        ),
        "Stoffe": st.none() | st.lists(entry, max_size=3),
        "Anteile": st.none() | st.lists(st.sampled_from([0.0, 0.5, 1.0, -0.5, 0.3333333, 2.0]), max_size=3),
        "quality": st.floats(),
    }
    for name in draw(st.lists(st.sampled_from(sorted(wrong)), unique=True, max_size=3)):
        record[name] = draw(wrong[name])
    return {**record, "_id": "k"}
