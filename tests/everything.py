"""Records of the data set with every type and every step, for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from complex_system.testing.data import EVERYTHING
from complex_system.testing.data import EVERYTHING_TEXT as TEXT

__all__ = ["EVERYTHING", "TEXT", "anything", "number", "records"]


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
